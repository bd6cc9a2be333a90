"""The benchmarks' own logic: rows, turns, replacement, checked plans, ratios turned the right way, without a peer."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from longalign.common import paths

sys.path.insert(0, str(paths.root()))

from benchmarks import common, peers, planning, training

from longalign.report.figures.speed import headlines, read_benchmarks
from maketool import make, with_this_python


def says(text):
    return common.Command(["-c", f"print({text!r})"])


def test_commands_take_turns_and_their_medians_are_rows(tmp_path):
    log, seconds = tmp_path / "log", {"A": 2, "B": 1}
    code = "f = open({!r}, 'a'); f.write({!r}); f.close(); print('noise'); print('{{\"time\": {}}}')"
    commands = {name: common.Command(["-c", code.format(str(log), name, time)]) for name, time in seconds.items()}
    samples = common.alternate(commands, rounds=3)
    assert log.read_text() == "ABABAB"
    told = common.Command(["-c", f"import os; print('{{\"round\":', os.environ['{common.ROUND}'], '}}')"])
    assert common.alternate({"A": told}, rounds=3)["A"].of("round") == [0, 1, 2]
    rows = common.rows_of("t", "c", samples, {"time": "s"})
    assert [(row["system"], row["value"], row["n"]) for row in rows] == [("A", 2.0, 3), ("B", 1.0, 3)]
    assert common.ratio("t", "c", "time", samples, "A", "B")["value"] == 2.0


def test_a_command_that_fails_is_asked_once_and_is_a_row_that_says_why():
    failing = common.Command(["-c", "import sys; sys.exit('no such thing')"])
    samples = common.alternate({"A": failing, "B": says('{"time": 1}')}, rounds=3)
    rows = common.rows_of("t", "c", samples, {"time": "s"})
    assert rows[0]["value"] is None and "no such thing" in rows[0]["note"] and rows[1]["n"] == 3
    assert common.ratio("t", "c", "time", samples, "A", "B")["value"] is None
    with pytest.raises(ValueError, match="says in its note why"):
        common.row("t", "A", "c", "time", "s", [])


def test_a_scripts_rows_replace_its_earlier_ones_and_no_others(tmp_path):
    table = tmp_path / "benchmarks.csv"
    for target, value in (("one", 1.0), ("two", 2.0), ("one", 3.0)):
        common.save(target, [common.row(target, "ours", "c", "time", "s", value)], table=table)
    assert sorted((row["target"], row["value"]) for row in common.read(table)) == [("one", 3.0), ("two", 2.0)]
    assert sorted(json.loads(table.with_suffix(".json").read_text())) == ["one", "two"]
    with pytest.raises(ValueError, match="other targets: two"):
        common.save("one", [common.row("two", "ours", "c", "time", "s", 1.0)], table=table)


def test_a_plan_that_loses_doubles_invents_or_overfills_is_not_timed():
    lengths = np.array([2, 4, 3])
    planning.check([[0, 1], [2]], lengths, 6)
    planning.check_lengths([[4, 2], [3]], lengths, 6)
    for wrong, reason in ([[0, 1]], "2 0 times"), ([[0, 1], [2, 0]], "0 2 times"), ([[0, 1, 2, 3]], "there are 3"):
        with pytest.raises(ValueError, match=reason):
            planning.check(wrong, lengths, 9)
    for check, plan in ((planning.check, [[0, 1, 2]]), (planning.check_lengths, [[2, 4, 3]])):
        with pytest.raises(ValueError, match="over the capacity of 8"):
            check(plan, lengths, 8)
    with pytest.raises(ValueError, match="not those of the 3"):
        planning.check_lengths([[4, 4], [3]], lengths, 9)


def test_a_plan_is_beside_the_fastest_the_fastest_with_sequences_and_the_fastest_with_as_few_packs():
    measured = {planning.OURS: (1.0, 10), "ours: next fit": (0.1, 13), "p: all, lengths alone": (0.5, 11),
                "p: parts": (2.0, 11), "p: all": (3.0, 10)}  # fmt: skip
    samples = {name: common.Samples([{"time": time, "packs": packs, "memory": 10 * time}])
               for name, (time, packs) in measured.items()}  # fmt: skip
    rows = planning._against_peers("1M", samples)
    assert [(row["system"].split(" / ")[0], row["metric"], row["value"], row["note"]) for row in rows] == [
        ("p: all, lengths alone", "time", 0.5, "the fastest of all"),
        ("p: parts", "time", 2.0, "the fastest plan of sequences"),
        ("p: all", "time", 3.0, "the fastest with as few packs"),
        ("p: all, lengths alone", "memory", 0.5, ""), ("p: parts", "memory", 2.0, ""), ("p: all", "memory", 3.0, ""),
    ]  # fmt: skip
    small = {name: common.Samples([{**one.rounds[0], "memory": one.rounds[0]["memory"] / 20}])
             for name, one in samples.items()}  # fmt: skip
    memory = [row["value"] for row in planning._against_peers("10k", small) if row["metric"] == "memory"]
    assert memory == [1.0, 1.0, 1.5], "0.5, 0.25, 1 and 1.5 MB: less than one counts as one"
    failed = {**samples, planning.OURS: common.Samples(failure="a fault")}
    assert planning._against_peers("1M", failed)[0]["note"] == "ours was not measured"
    ours = {planning.OURS: samples[planning.OURS]}
    assert planning._against_peers("1M", ours)[0]["note"] == "no peer was measured"


def test_a_script_of_which_something_of_ours_failed_says_so_in_its_status(monkeypatch):
    monkeypatch.setattr(common, "save", lambda *arguments, **options: None)
    failed = [common.row("t", system, "c", "time", "s", [], "a fault") for system in ("ours: best fit", "trl 1.16.0")]
    assert [common.finish("t", [row]) for row in failed] == [1, 0]


def test_a_requirement_that_does_not_exist_is_one_line_and_a_row_without_a_value(tmp_path, monkeypatch, capsys):
    (tmp_path / "none.txt").write_text("no-such-package-of-longalign==1.0\n")
    monkeypatch.setattr(peers.Peer, "folder", tmp_path / "none")
    monkeypatch.setattr(peers.Peer, "requirements", tmp_path / "none.txt")
    monkeypatch.setattr(peers, "PEERS", {"none": peers.Peer("none", "none")})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    (row,) = peers.run()
    assert row["n"] == 0 and row["note"].startswith("not installed: ")
    assert "no-such-package-of-longalign" in row["note"] and "\n" not in row["note"]
    assert capsys.readouterr().err.count("\n") == 1


def test_make_bench_refuses_an_unknown_benchmark_and_names_those_there_are(tmp_path):
    told = make("bench", "BENCH=loss trainin", *with_this_python(tmp_path))
    assert told.returncode == 2 and "BENCH is 'loss trainin'; there are: training " in told.stderr


@pytest.mark.parametrize(("names", "installs"), [("attention", 0), ("attention planning", 1)])
def test_others_code_is_installed_where_a_benchmark_has_it_beside_ours(tmp_path, names, installs):
    told = make("-n", "bench", f"BENCH={names}", *with_this_python(tmp_path))
    assert told.stdout.count("benchmarks.peers") == installs and "benchmarks.NAME" in told.stdout


def test_a_peer_that_was_never_installed_is_said_so_and_every_peer_is_pinned(tmp_path, monkeypatch):
    monkeypatch.setattr(peers.Peer, "stamp", tmp_path / "none.json")
    assert peers.state("trl").reason.startswith("not installed")
    for peer in peers.PEERS.values():
        pins = [line for line in peer.requirements.read_text().splitlines() if line and line[0] != "#"]
        assert pins and all("==" in pin for pin in pins)


@pytest.mark.parametrize(("system", "metric", "value", "ratio"), [
    ("ours / plain", "time", 0.5, 2.0), ("plain / ours", "time", 0.5, 0.5), ("ours / plain", "speed", 3.0, 3.0),
    ("fast 1.0: fit / ours: best fit", "time", 4.0, 4.0),
])  # fmt: skip
def test_above_one_means_that_the_library_is_ahead(system, metric, value, ratio):
    row = common.row("t", system, "c", metric, "ratio", [value, value])
    assert headlines(pd.DataFrame([row])).ratio.tolist() == [ratio]


def test_ours_over_ours_and_what_was_not_measured_are_no_comparisons():
    rows = [common.row("t", "ours: two / ours: one", "c", "time", "ratio", 2.0),
            common.row("t", "peer / ours", "c", "time", "ratio", [], "not installed"),
            common.row("t", "peer", "c", "time", "s", 2.0)]  # fmt: skip
    assert headlines(pd.DataFrame(rows)).empty


def test_the_committed_table_holds_every_script_and_every_row_a_number_or_a_reason():
    rows = read_benchmarks(paths.results())
    scripts = {file.stem for file in (paths.root() / "benchmarks").glob("*.py")} - {"__init__", "common"}
    assert set(rows.target) - {"preprocessing-full"} == scripts
    assert (rows.value.notna() | (rows.note != "")).all()
    assert list(rows.columns) == list(common.COLUMNS)
    assert not rows[(rows.system == common.OURS) & rows.value.isna()].size


@pytest.mark.parametrize("number", ["0", "1", "2"])
def test_training_data_are_long_tailed_enough_for_all_steps_and_others_in_every_round(number, monkeypatch):
    monkeypatch.setenv(common.ROUND, number)
    for window, steps in training.STEPS.items():
        rows = training.conversations(window, 8)
        lengths = np.array([len(row["input_ids"]) for row in rows])
        assert window / 2 < lengths.max() <= window < lengths.sum() / (steps + 1)
        assert np.median(lengths) < window / 20
        assert all(sum(row["completion_mask"]) == n // 8 for row, n in zip(rows, lengths, strict=True))
        monkeypatch.setenv(common.ROUND, "7")
        assert rows != training.conversations(window, 8)
        monkeypatch.setenv(common.ROUND, number)
