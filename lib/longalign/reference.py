"""A run becomes the committed reference only here: tables, records, scrubbed notebooks, figures redrawn from them.

    python -m longalign.reference laptop      (make reference)

The price: files of an earlier reference that this run no longer writes stay, and are named, never deleted.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection
from pathlib import Path

import nbformat

from longalign import paths
from longalign.execution.files import damaged
from longalign.profiles import load_profile
from longalign.record import write_text

_TABLES = ("*.csv", "*.json", "items/*.csv")
_CELL_METADATA = ("papermill", "execution", "ExecuteTime")


def promote(run: Path | str, results: Path | str, names: Collection[str]) -> list[Path]:
    """Copy tables, records and the executed notebooks `names` of the folder `run` into `results`; returns the copies.

    Raises FileNotFoundError when one of the notebooks is missing from the run, ValueError when it did not finish: the
    reference is one whole run.
    """
    run, results = Path(run), Path(results)
    missing = sorted(name for name in names if not (run / "notebooks" / name).is_file())
    if missing or not names:
        what = ", ".join(missing) or "notebooks"
        raise FileNotFoundError(f"{paths.relative(run)} holds no executed {what}: run them first")
    notebooks = {name: nbformat.read(run / "notebooks" / name, as_version=4) for name in sorted(names)}
    for name, notebook in notebooks.items():
        if not is_finished(notebook):
            raise ValueError(f"{paths.relative(run)}/notebooks/{name} did not finish: run it to its end, then promote")
    tables = sorted(path for pattern in _TABLES for path in run.glob(pattern))
    written = [write_text(results / path.relative_to(run), path.read_text(encoding="utf-8")) for path in tables]
    for name, notebook in notebooks.items():
        # what a cell printed may hold the place of this checkout; as seen from the checkout it is the same for all
        text = nbformat.writes(scrub(notebook)).replace(f"{paths.root()}/", "")
        written.append(write_text(results / "notebooks" / name, text + "\n"))
    return written


def export_report(notebook: Path | str, page: Path | str) -> Path:
    """What an executed notebook says, without its code, as one HTML file with images inside; returns it."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(exclude_input=True, exclude_output_prompt=True)
    return write_text(page, exporter.from_filename(str(notebook))[0])


def is_finished(notebook: nbformat.NotebookNode) -> bool:
    """Whether every code cell that holds code was executed, none with an error."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    failed = any(output.output_type == "error" for cell in cells for output in cell.outputs)
    return not failed and all(cell.execution_count for cell in cells)


def scrub(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out what belongs to one machine and one hour: timings, paths, papermill's cells and metadata. In place.

    The values that the run was given move into the notebook's own parameters cell, so that the page says what it shows.
    """
    _keep_parameters(notebook)
    notebook.cells = [c for c in notebook.cells if not {"injected-parameters", "papermill-error-cell-tag"} & _tags(c)]
    for cell in notebook.cells:
        for key in _CELL_METADATA:
            cell.metadata.pop(key, None)
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    return notebook


def _keep_parameters(notebook: nbformat.NotebookNode) -> None:
    given = [cell.source for cell in notebook.cells if "injected-parameters" in _tags(cell)]
    values = {target.id: ast.unparse(node.value) for source in given for node in ast.parse(source).body
              if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)}  # fmt: skip
    for cell in (cell for cell in notebook.cells if "parameters" in _tags(cell)):
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.AnnAssign) and node.target.id in values:
                line = f"{node.target.id}: {ast.unparse(node.annotation)} = {values[node.target.id]}"
                cell.source = cell.source.replace(ast.get_source_segment(cell.source, node), line.replace("'", '"'))


def _tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def main(arguments: list[str]) -> int:
    """Promote the run of the profile named on the command line; returns the exit status."""
    from longalign import plots, readme

    try:
        profile = load_profile(arguments[0] if arguments else "laptop")
        names = [path.name for path in paths.notebooks().glob("[0-9][0-9]_*.ipynb")]
        for name, files in damaged(profile.name, [Path(name).stem for name in names]).items():
            raise ValueError(f"{', '.join(files)} is not as {name} wrote it: `make reproduce` writes it again")
        written = promote(paths.run_dir(profile.name), paths.results(), names)
    except (ValueError, FileNotFoundError) as error:
        print(f"longalign.reference: {error}", file=sys.stderr)
        return 2
    for report in (paths.results() / "notebooks").glob("*_report.ipynb"):
        export_report(report, paths.results() / "report.html")
    kept = {p for pattern in _TABLES for p in paths.results().glob(pattern)} - set(written)
    print(f"{len(written)} files of the run of {profile.name} are now the reference in results/")
    for path in sorted(kept):
        print(f"not of this run, left as it is: {paths.relative(path)}")
    status = plots.main()
    try:
        readme.main()
    except (ValueError, FileNotFoundError) as error:
        print(f"longalign.reference: the README was left as it is: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
