"""The report as one HTML file that needs no network: images inside, no code, and no script from elsewhere.

    python -m longalign.report.export NOTEBOOK PAGE       (make reproduce)
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from longalign.common.provenance import write_text

WITHOUT_SCRIPTS = (
    "{% extends 'lab/index.html.j2' %}{% block html_head_js %}{% endblock %}"
    "{% block html_head_js_mathjax %}{% endblock %}{% block html_head_js_mermaidjs %}{% endblock %}"
)
"""JupyterLab's page loads scripts for formulas and diagrams from the network; the report has neither."""


def export_report(notebook: Path | str, page: Path | str) -> Path:
    """Write what an executed notebook says, without its code, as one HTML file; returns it."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(raw_template=WITHOUT_SCRIPTS, exclude_input=True, exclude_output_prompt=True)
    return write_text(page, exporter.from_filename(str(notebook))[0])


def main(arguments: Sequence[str]) -> int:
    """Write the page of a notebook; returns the exit status."""
    export_report(*arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
