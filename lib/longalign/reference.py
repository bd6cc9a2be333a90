"""A run becomes the committed reference only here: tables, records, scrubbed notebooks, figures redrawn from them.

    python -m longalign.reference laptop      (make reference)

The price: files of an earlier reference that this run no longer writes stay, and are named, never deleted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat

from longalign import paths
from longalign.profiles import ProfileError, load_profile
from longalign.record import write_text

_TABLES = ("*.csv", "*.json")
_CELL_METADATA = ("papermill", "execution", "ExecuteTime")


def promote(run: Path | str, results: Path | str) -> list[Path]:
    """Copy the tables, records and executed notebooks of the folder `run` into `results`; returns what was written.

    Raises FileNotFoundError when the run has no executed notebooks: there is nothing to promote.
    """
    run, results = Path(run), Path(results)
    copies = sorted((run / "notebooks").glob("[0-9]*.ipynb"))
    if not copies:
        raise FileNotFoundError(f"{paths.relative(run)} holds no executed notebooks: run `make reproduce` first")
    written = [
        write_text(results / source.name, source.read_text(encoding="utf-8"))
        for source in sorted(p for pattern in _TABLES for p in run.glob(pattern))
    ]
    for source in copies:
        text = nbformat.writes(scrub(nbformat.read(source, as_version=4)))
        written.append(write_text(results / "notebooks" / source.name, text + "\n"))
    return written


def scrub(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out what belongs to one machine and one hour: timings, paths, papermill's cells and metadata. In place."""
    notebook.cells = [c for c in notebook.cells if not {"injected-parameters", "papermill-error-cell-tag"} & _tags(c)]
    for cell in notebook.cells:
        for key in _CELL_METADATA:
            cell.metadata.pop(key, None)
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    return notebook


def _tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def main(arguments: list[str]) -> int:
    """Promote the run of the profile named on the command line; returns the exit status."""
    from longalign import plots

    try:
        profile = load_profile(arguments[0] if arguments else "laptop")
        written = promote(paths.run_dir(profile.name), paths.results())
    except (ProfileError, FileNotFoundError) as error:
        print(f"longalign.reference: {error}", file=sys.stderr)
        return 2
    kept = {p for pattern in _TABLES for p in paths.results().glob(pattern)} - set(written)
    print(f"{len(written)} files of the run of {profile.name} are now the reference in results/")
    for path in sorted(kept):
        print(f"not of this run, left as it is: {paths.relative(path)}")
    return plots.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
