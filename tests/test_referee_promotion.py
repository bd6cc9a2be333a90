"""The referee's run becomes a part of the reference: whole, planned as the ledger says, and with all that shows it."""

import shutil

import nbformat
import pytest

from longalign.common import paths
from longalign.experiments.later import BENCHMARKS, CONTINUAL, NORMALISERS, STAGES
from longalign.report import later as report
from longalign.report.claim_scores import Folder
from longalign.report.claims import measure_all
from longalign.reproduction import redraw, referee, reference
from longalign.reproduction.verify_tables import NOT_OF_A_RUN
from referee_rows import ARMS, QUESTIONS, SEEDS, ledger, write_run


def even(arm, task):
    return 0.5


@pytest.fixture
def planned(monkeypatch):
    monkeypatch.setattr(report, "load_later", ledger)


def files_of(*tables):
    return {name for table in tables for name in (f"{table}.csv", f"items/{table}.csv", f"later_{table}.json")}


@pytest.mark.parametrize("finished", [list(BENCHMARKS), ["normalisers"], ["normalisers", "preferences"]])
def test_the_finished_tables_their_questions_and_records_are_copied_and_nothing_else(finished, tmp_path, planned):
    run, results = write_run(tmp_path / "run", even), tmp_path / "results"
    (run / "grid.csv").write_text("of another run")
    for table in {*BENCHMARKS} - {*finished}:
        (run / f"later_{table}.json").unlink()
    assert referee.promote(run, results) == finished
    names = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
    assert names == files_of(*finished)
    assert all((results / name).read_bytes() == (run / name).read_bytes() for name in names)


def test_what_was_promoted_decides_the_claims(tmp_path, planned):
    weak = {"sequence mean", "SFT"}
    referee.promote(write_run(tmp_path / "run", lambda arm, task: 0.1 if arm in weak else 1.0), tmp_path / "results")
    rows = {row["id"]: row for row in measure_all(ledger(), Folder(tmp_path / "results"), calibrated={})}
    assert rows["hbp-token-over-sequence-mean-long"]["verdict"] == "reproduced"
    assert rows["hbp-weighting-raises-longbench"]["verdict"] == "contradicted"
    dpo = rows["longreward-dpo-long"]
    assert (dpo["verdict"], dpo["questions"], dpo["seeds"]) == ("reproduced", 7 * 3 * QUESTIONS, SEEDS)
    measured = [row for row in rows.values() if row["seeds"]]
    assert len(measured) == sum(claim.results in BENCHMARKS for claim in ledger())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda run: [record.unlink() for record in run.glob("later_*.json")], "holds no finished table"),
        (lambda run: (run / "continual.csv").unlink(), "there is no continual.csv"),
        (lambda run: (run / "items" / "preferences.csv").unlink(), "the run has 3 and 0"),
        (lambda run: write_run(run, even, seeds=2), "planned with 3 seeds and .* and the run has 2 and"),
        (lambda run: write_run(run, even, arms={"normalisers": ARMS["normalisers"][:2]}), "no arm 'token mean"),
    ],
    ids=["nothing is finished", "a table is missing", "questions are missing", "fewer seeds", "an arm is missing"],
)
def test_a_run_that_is_not_what_the_ledger_plans_is_refused_and_nothing_is_copied(spoil, told, tmp_path, planned):
    run = write_run(tmp_path / "run", even)
    spoil(run)
    with pytest.raises(ValueError, match=told):
        referee.promote(run, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_make_reference_with_this_profile_promotes_it_and_draws_what_shows_it(tmp_path, monkeypatch, planned, capsys):
    drawn = []
    monkeypatch.setattr(paths, "results", lambda: tmp_path / "results")
    monkeypatch.setattr(redraw, "redraw", lambda numbers: drawn.append(numbers) or 0)
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    assert reference.main(["referee"]) == 2 and "make referee" in capsys.readouterr().err and not drawn
    run = write_run(tmp_path / "runs" / "referee", even)
    (run / "later_preferences.json").unlink()
    assert reference.main(["referee"]) == 0 and drawn == [("13", "14", "90")]
    assert (tmp_path / "results" / "continual.csv").is_file()
    told = capsys.readouterr().out.splitlines()
    assert told == ["now part of the reference in results/: normalisers, continual, stages",
                    "not finished: preferences (`make referee` goes on with them)"]


def test_make_verify_does_not_ask_a_run_for_what_the_referee_wrote():
    assert {*BENCHMARKS, report.TABLE.removesuffix(".csv")} <= NOT_OF_A_RUN


def cells_that_show(number):
    """The imports of a notebook and its cells on later papers, as code."""
    (path,) = paths.notebooks().glob(f"{number}_*.ipynb")
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    imports = next(cell.source for cell in code if "\nfrom longalign" in cell.source)
    lines = [line for line in imports.splitlines() if line.startswith(("import ", "from "))]
    last = {cell.source: cell.source.splitlines()[-1] for cell in code}
    return lines, [source for source, line in last.items() if "later." in line and not line.startswith("print")]


def shown(number):
    """What the last line of each of these cells is."""
    lines, sources = cells_that_show(number)
    names, found = {}, []
    exec("\n".join(lines), names)
    for source in sources:
        body, _, last = source.rstrip().rpartition("\n")
        exec(body, names)
        found.append(eval(last, names))
    return found


def test_notebooks_show_the_referee_s_tables_when_they_are_there(monkeypatch, tmp_path):
    better = {"square root": 1.0, "0.25M, none": 0.0, "10M, none": 0.25, "0.25M, all": 1.0, "10M, all": 1.0}
    write_run(tmp_path, lambda arm, task: better.get(arm, 0.0))
    shutil.copy(paths.results() / report.TABLE, tmp_path)
    monkeypatch.setattr(paths, "results", lambda: tmp_path)
    cells, stages, gains, _ = shown("13")
    assert {*stages.index} == {*STAGES}
    assert set(gains) == {"0.000"} and len(gains) == 4 + 7, "one seed has no interval; cells, then kinds of tasks"
    assert list(cells.index) == [*NORMALISERS, "padding"] and len(cells.columns) == 4
    assert cells.loc["square root"].tolist() == ["1.00"] * 4 and cells.loc["token mean"].tolist() == ["0.00"] * 4
    gains, on_scales, answers, _ = shown("14")
    assert on_scales is None, "it prints"
    assert (answers.answers > 0).all() and (answers.better + answers.worse <= answers.answers).all()
    assert list(gains.index) == [*CONTINUAL, "interaction"] and gains["mean"]["0.25M"] == 1
    assert gains["mean"]["interaction"] == pytest.approx(1 - gains["mean"]["10M"], abs=1e-3)
    assert gains["mean"]["10M"] == pytest.approx(0.75, abs=0.15)
