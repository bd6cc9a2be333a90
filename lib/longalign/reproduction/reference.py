"""A run becomes the committed reference only here: tables, records, scrubbed notebooks, figures redrawn from them.

    python -m longalign.reproduction.reference laptop           (make reference)
    python -m longalign.reproduction.reference laptop 05 06     (make reference NB="05 06")
    python -m longalign.reproduction.reference referee          (make reference PROFILE=referee)

Parts of a reference are computed by one code, with one profile; a part that was not is refused, and nothing changes.
Files of an earlier reference that this run no longer writes stay, and are named, never deleted.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import nbformat

from longalign.common import paths
from longalign.common.provenance import write_text
from longalign.experiments.profiles import load_profile
from longalign.report.claim_schema import LAPTOP
from longalign.report.export import export_report
from longalign.reproduction import outcomes
from longalign.reproduction.outcomes import damaged
from longalign.reproduction.verify import differing

_TABLES = ("*.csv", "*.json", "items/*.csv")
_CELL_METADATA = ("papermill", "execution", "ExecuteTime")


def promote(
    run: Path | str, results: Path | str, names: Collection[str], files: Collection[str] | None = None
) -> list[Path]:
    """Copy tables, records and the executed notebooks `names` of the folder `run` into `results`; returns the copies.

    Of a part, `files` says which tables and records are its own, by path from `run`; all are copied where it is None.

    Raises FileNotFoundError when one of the notebooks is missing from the run, ValueError when it did not finish: the
    reference is of whole notebooks.
    """
    run, results = Path(run), Path(results)
    missing = sorted(name for name in names if not (run / "notebooks" / name).is_file())
    if missing or not names:
        what = ", ".join(missing) or "notebooks"
        raise FileNotFoundError(f"{paths.relative(run)} holds no executed {what}: run them first")
    notebooks = {name: nbformat.read(run / "notebooks" / name, as_version=4) for name in sorted(names)}
    for name, notebook in notebooks.items():
        if not is_finished(notebook):
            raise ValueError(f"{paths.relative(run)}/notebooks/{name} did not finish: run it to its end first")
    tables = sorted(path for pattern in _TABLES for path in run.glob(pattern)
                    if files is None or path.relative_to(run).as_posix() in files)  # fmt: skip
    written = [write_text(results / path.relative_to(run), path.read_text(encoding="utf-8")) for path in tables]
    return written + keep_pages(notebooks, results)


def keep_pages(notebooks: Mapping[str, nbformat.NotebookNode], results: Path) -> list[Path]:
    """Write executed notebooks, scrubbed, as the pages of `results`, and the report as one HTML file; returns them."""
    written = []
    for name, notebook in notebooks.items():
        # what a cell printed may hold the place of this checkout; as seen from the checkout it is the same for all
        text = nbformat.writes(scrub(notebook)).replace(f"{paths.root()}/", "")
        page = write_text(results / "notebooks" / name, text + "\n")
        written += [page, *([export_report(page, results / "report.html")] if name.endswith("_report.ipynb") else [])]
    return written


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


def check_part(run: Path | str, results: Path | str, names: Collection[str]) -> None:
    """Refuse the notebooks `names` (stems) of a run as a part of the reference in `results`, whose others stay.

    Raises ValueError in a sentence that names both: for a part that another code computed (a record without `code` is
    known by its commit), with other settings, that has fewer seeds than what it would replace, or that has not run.
    """
    run, results = Path(run), Path(results)
    for name in names:
        new, old = run / f"{name}.json", results / f"{name}.json"
        if not new.is_file():
            raise ValueError(f"{name} has not run to its end: `make notebook NB={paths.number(name)}` does that")
        part = _record(new)
        if old.is_file() and (lost := set(_record(old)["seeds"]) - set(part["seeds"])):
            told = f"{name}: the run has the seeds {_listed(part['seeds'])}, and of the reference's {_listed(lost)}"
            raise ValueError(f"{told} would be lost: `make notebook NB={paths.number(name)} SEEDS=...`")
        for path in (path for path in paths.record_files(results) if path.stem not in names):
            _refuse_mixture(name, part, path.stem, _record(path))


def _refuse_mixture(name: str, part: Mapping[str, Any], other: str, kept: Mapping[str, Any]) -> None:
    if not (_computed_by(part) and _computed_by(kept)):
        return  # what trains nothing is the same by any code, or its tests fail
    if _computed_by(part) != _computed_by(kept):
        raise ValueError(f"{name} was computed by {_computed_by(part)}, and {other}, which stays, by "
                         f"{_computed_by(kept)}: two versions of the code cannot make one reference")  # fmt: skip
    if phrases := differing(part["config"], kept["config"]):
        raise ValueError(f"{name} was computed with other settings than {other}, which stays: "
                         f"{'; '.join([*phrases.values()][:5])}")  # fmt: skip


def _computed_by(record: Mapping[str, Any]) -> str:
    """The code that trained or scored for a record; "" where nothing was."""
    if record.get("code"):
        return f"code {record['code']}"
    trained = any(record["results"].get(name) for name in ("runs", "measurements"))
    return f"commit {(record['git']['commit'] or 'unknown')[:7]}" if trained else ""


def _record(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _listed(seeds: Collection[int]) -> str:
    return ", ".join(map(str, sorted(seeds))) or "none"


def main(arguments: list[str]) -> int:
    """Promote the run of the profile named first, or of it the notebooks with the numbers that follow.

    Returns the exit status.
    """
    from longalign.report import later, noise, readme
    from longalign.report.figures import style
    from longalign.reproduction import redraw, referee

    numbers = arguments[1:]
    try:
        profile = load_profile(arguments[0] if arguments else "laptop")
        if profile.name == referee.NAME:
            return referee.main()
        stems = chosen(numbers)
        for name, files in damaged(profile.name, stems).items():
            raise ValueError(f"{', '.join(files)} has changed since {name} wrote it: `make reproduce` writes it again")
        run, results, files = paths.run_dir(profile.name), paths.results(), None
        if numbers:
            check_part(run, results, stems)
            files = {file for one in stems if (done := outcomes.read(profile.name, one)) for file in done.files}
        written = promote(run, results, [f"{stem}.ipynb" for stem in stems], files)
        print(f"{len(written)} files of the run of {profile.name} are now the reference in results/")
        if numbers:
            return redraw.redraw(["90"])  # the report is of all parts
    except (ValueError, FileNotFoundError) as error:
        print(f"longalign.reproduction.reference: {error}", file=sys.stderr)
        return 2
    written.append(noise.write(results))
    if profile.name == LAPTOP:  # the claims of later papers are planned by its chance
        later.write(results)
        written.append(results / later.TABLE)
    kept = {p for pattern in _TABLES for p in results.glob(pattern)} - set(written)
    for path in sorted(kept):
        print(f"not of this run, left as it is: {paths.relative(path)}")
    status = style.main()
    try:
        readme.main()
    except (ValueError, FileNotFoundError) as error:
        print(f"longalign.reproduction.reference: the README was left as it is: {error}", file=sys.stderr)
        return 2
    return status


def chosen(numbers: Collection[str]) -> list[str]:
    """The stems of the notebooks with these numbers, of all where none is given. Raises ValueError for no notebook."""
    stems = [path.stem for path in paths.notebook_files()]
    for number in numbers:
        if not any(stem.startswith(f"{number}_") for stem in stems):
            raise ValueError(f"there is no notebook {number}; there are: {', '.join(stems)}")
    return [stem for stem in stems if not numbers or paths.number(stem) in numbers]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
