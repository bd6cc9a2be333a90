"""Pages whose numbers a command writes: what stands between two marks is replaced by what the committed tables say.

A block begins with `<!-- NAME:begin (written by ...) -->` and ends with `<!-- NAME:end -->`. Prose around it must stay
true whatever the numbers are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from longalign.common import paths
from longalign.common.provenance import write_text
from longalign.report import page_blocks, site_blocks

PAGES: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": {
        "scale": page_blocks.scale, "results": page_blocks.findings, "models": page_blocks.models,
        "speed": page_blocks.speed, "gpu": page_blocks.gpu,
    },
    "docs/scale/paper-costs.md": {"costs": site_blocks.paper_costs},
    "docs/scale/mixed.md": {"measured": site_blocks.sharing, "rates": site_blocks.rates},
    "docs/results/benchmarks.md": {"benchmarks": page_blocks.benchmarks},
    "docs/project/verdicts.md": {"verdicts": page_blocks.verdicts},
    "docs/project/later.md": {"later": site_blocks.later},
    "docs/results/cards.md": {"cards": site_blocks.cards},
    "docs/results/figures.md": {"figures": site_blocks.figures},
    "docs/learn/teaching.md": {"sessions": site_blocks.sessions},
}  # fmt: skip
"""The pages, by their place in the repository: the names of their blocks, and what is written there."""


def blocks(text: str) -> dict[str, str]:
    """What stands between the marks of a page, by name.

    >>> blocks("a\\n<!-- speed:begin (written by `make bench`) -->\\n\\n3 times\\n\\n<!-- speed:end -->\\nb")
    {'speed': '3 times'}
    """
    return {found["name"]: found["content"].strip() for found in _marked(text)}


def update(page: Path, contents: dict[str, str]) -> None:
    """Replace the blocks of `page` by these. Raises ValueError when its marks are not those names', once each."""
    text = page.read_text(encoding="utf-8")
    names = [found["name"] for found in _marked(text)]
    if sorted(names) != sorted(contents) or text.count("-->") != 2 * len(names):
        raise ValueError(
            f"{page.name} must hold the marks <!-- NAME:begin (...) --> and <!-- NAME:end --> of "
            f"{', '.join(contents)}, once each, begin before end; it holds {', '.join(names) or 'none'}"
        )
    for found in reversed(list(_marked(text))):
        start, end = found.span("content")
        text = f"{text[:start]}\n{contents[found['name']]}\n{text[end:]}"
    write_text(page, text)


def _marked(text: str) -> list[re.Match[str]]:
    mark = r"<!-- (?P<name>[a-z-]+):begin \([^\n]*\) -->(?P<content>.*?)<!-- (?P=name):end -->"
    return list(re.finditer(mark, text, flags=re.S))


def main() -> None:
    """Write the committed results into the pages."""
    for name, page in PAGES.items():
        update(paths.root() / name, {block: content(paths.results()) for block, content in page.items()})


if __name__ == "__main__":
    main()
