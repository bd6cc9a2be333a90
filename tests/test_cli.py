"""The console command: JSON with exactly the promised keys, one line and status 2 for every refusal."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest

from longalign.cli import main
from longalign.cli.data_build import BuildOptions
from longalign.cli.eval import EvalOptions
from longalign.data import chat_formats
from longalign.recipe import batching

KEYS = ["packs", "fill", "idle", "idle_bound", "speedup", "bound", "steps", "sequences_per_step"]


@pytest.fixture
def lengths(tmp_path):
    """A text file of the lengths 2, 4, 3."""
    path = tmp_path / "lengths.txt"
    path.write_text("2\n4\n3\n")
    return str(path)


@pytest.fixture
def samples(tmp_path):
    """Three samples in LongAlign-10k's schema."""
    turns = [[("user", f"{i} {i}"), ("assistant", f"{i}")] for i in (2, 4, 3)]
    rows = [{"messages": [{"role": role, "content": content} for role, content in turn]} for turn in turns]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def refused(capsys, *arguments):
    """The one line that a refused command line prints."""
    with pytest.raises(SystemExit) as stopped:
        main.main(list(arguments))
    told = capsys.readouterr()
    assert stopped.value.code == 2 and told.out == ""
    assert told.err.startswith("longalign: ") and told.err.count("\n") == 1
    return told.err


@pytest.mark.parametrize(
    ("words", "kind"),
    [(["eval", "needle", "--out", "o"], EvalOptions),
     (["data", "build", "--documents", "d", "--out", "o"], BuildOptions)],
    ids=["eval", "data build"],
)  # fmt: skip
def test_every_option_of_a_command_has_its_field_in_the_dataclass(words, kind):
    given = vars(main.parser().parse_args(words))
    assert {*given} - {"run", "parser", "into"} == {field.name for field in dataclasses.fields(kind)}


def test_a_plan_as_json_has_the_promised_keys_and_the_numbers_of_a_hand_made_plan(lengths, capsys):
    assert main.main(["plan", lengths, "--capacity", "6", "--algorithm", "best_fit", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert list(summary) == KEYS
    assert summary == {
        "packs": 2, "fill": 0.75, "idle": 0, "idle_bound": 0, "speedup": 1, "bound": 2, "steps": 2,
        "sequences_per_step": 1.5,
    }  # fmt: skip


def test_a_plan_for_readers_says_the_same_numbers(lengths, capsys):
    assert main.main(["plan", lengths, "--capacity", "6", "--algorithm", "best_fit"]) == 0
    told = capsys.readouterr().out
    assert "75.00 %" in told and "provable minimum 2" in told


@pytest.mark.parametrize("rows", [{"length": 7}, {"messages": [{"role": "user", "content": "First pay."},
                                                              {"role": "assistant", "content": "Then."}]}])  # fmt: skip
def test_a_plan_of_a_pipe_is_that_of_the_file(tmp_path, rows):
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps(rows)}\n" * 3000)  # more than is read at a time
    command = [sys.executable, "-m", "longalign.cli", "plan", "--capacity", "4096", "--json"]
    found = [
        json.loads(subprocess.run([*command, name], input=sent, capture_output=True, check=True).stdout)
        for name, sent in ((str(file), b""), ("/dev/stdin", file.read_bytes()), ("-", file.read_bytes()))
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]["steps"] * found[0]["sequences_per_step"] == pytest.approx(3000)


def test_ranks_that_wait_in_every_micro_step_are_balanced_and_counted_so(tmp_path, capsys):
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("\n".join(str(16 * (1 + 60 * (i % 10 == 0)) + i % 90) for i in range(400)))
    plain = ["plan", str(lengths), "--ranks", "4", "--accumulation", "4", "--capacity", "1100", "--json"]
    idle = []
    for options in ([], ["--balance", "steps"]):
        assert main.main([*plain, "--barrier", "micro_step", *options]) == 0
        idle.append(json.loads(capsys.readouterr().out)["idle"])
    assert main.main(plain) == 0
    assert idle[1] < idle[0] and json.loads(capsys.readouterr().out)["idle"] < idle[0]


def test_what_is_cut_to_no_capacity_and_packs_that_naive_has_not_are_refused_in_a_sentence(lengths, capsys):
    for options, told in (
        (["--method", "naive", "--truncate"], "--truncate needs --capacity"),
        (["--method", "naive", "--balance", "fill"], "balance 'fill' packs sequences anew: it needs the method"),
    ):
        assert told in refused(capsys, "plan", lengths, *options)


@pytest.mark.parametrize("how", main.BALANCES)
def test_a_balanced_plan_waits_less_and_is_as_many_times_as_fast(tmp_path, capsys, how):
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("\n".join(str(16 * (1 + 60 * (i % 10 == 0)) + i) for i in range(100)))
    plain = ["plan", str(lengths), "--ranks", "4", "--accumulation", "2", "--capacity", "1100", "--json"]
    found = []
    for options in ([], ["--balance", how]):
        assert main.main([*plain, *options]) == 0
        found.append(json.loads(capsys.readouterr().out))
    before, after = found
    assert after["idle"] < before["idle"] and after["idle"] >= after["idle_bound"] - 1e-9
    assert after["speedup"] > before["speedup"]
    if how == "steps":  # the naive plan beside it has the same steps then
        assert after["speedup"] / before["speedup"] == pytest.approx((1 - after["idle"]) / (1 - before["idle"]))
    assert after["sequences_per_step"] * after["steps"] == pytest.approx(100)


@pytest.mark.parametrize("method", main.METHODS)
def test_every_method_plans_for_ranks_and_accumulation(lengths, capsys, method):
    options = ["--method", method, "--ranks", "2", "--accumulation", "2", "--capacity", "9", "--json"]
    assert main.main(["plan", lengths, *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert list(summary) == KEYS and summary["steps"] == 1 and summary["sequences_per_step"] == 3


def test_the_choices_are_those_of_the_library(lengths):
    for method in main.METHODS:
        batching.make_plan(method, [2, 4, 3], capacity=9)
    for algorithm in main.ALGORITHMS:
        batching.plan_packing([2, 4, 3], capacity=9, algorithm=algorithm)
    assert set(main.CHAT_FORMATS) == set(chat_formats.CHAT_FORMATS)


def test_a_length_over_the_capacity_is_refused_or_cut_and_told(lengths, capsys):
    assert "sequence 1 first" in refused(capsys, "plan", lengths, "--capacity", "3")
    assert main.main(["plan", lengths, "--capacity", "3", "--truncate", "--json"]) == 0
    told = capsys.readouterr()
    assert "1 of 3 sequences" in told.err and json.loads(told.out)["packs"] == 3


def test_samples_without_lengths_are_measured_by_the_miniatures_tokenizer_which_is_said(samples, capsys):
    assert main.main(["plan", samples, "--capacity", "64", "--json"]) == 0
    told = capsys.readouterr()
    assert "miniature's own tokenizer" in told.err
    assert json.loads(told.out)["sequences_per_step"] == 3


def test_samples_with_lengths_need_no_tokenizer(tmp_path, capsys):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(f'{{"messages": [], "length": {n}}}\n' for n in (2, 4, 3)))
    assert main.main(["plan", str(path), "--capacity", "9", "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == "" and json.loads(told.out)["packs"] == 1


def test_a_tokenized_store_gives_the_plan_of_its_samples(samples, tmp_path, capsys):
    store = str(tmp_path / "store")
    assert main.main(["data", "tokenize", samples, "--out", store]) == 0
    assert "3 sequences" in capsys.readouterr().out
    plans = []
    for data in (samples, store):
        main.main(["plan", data, "--capacity", "64", "--json"])
        plans.append(capsys.readouterr().out)
    assert plans[0] == plans[1]


def test_a_bad_sample_is_refused_with_its_line_or_skipped_and_counted(samples, tmp_path, capsys):
    with open(samples, "a") as file:
        file.write('{"messages": [{"role": "robot", "content": "x"}]}\n')
    with pytest.raises(SystemExit) as stopped:
        main.main(["data", "tokenize", samples, "--out", str(tmp_path / "store")])
    error = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and "line 4" in error and "samples.jsonl" in error
    assert not (tmp_path / "store").exists()
    assert main.main(["data", "tokenize", samples, "--out", str(tmp_path / "store"), "--skip-invalid"]) == 0
    told = capsys.readouterr()
    assert "1 samples skipped" in told.err and "3 sequences" in told.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["plan", "DATA", "--capcity", "9"], "did you mean --capacity?"),
        (["plan", "DATA", "--cap", "9"], "unrecognized arguments: --cap 9"),
        (["plan", "DATA", "--capacity", "9", "--method", "packin"], "did you mean packing?"),
        (["plan", "DATA", "--capacity", "nine"], "'nine' is not a positive whole number"),
        (["plan", "DATA", "--capacity", "0"], "'0' is not a positive whole number"),
        (["plan", "DATA", "--capacity", "9" * 20], "is not a positive whole number below 10^18"),
        (["plan", "DATA", "--capacity", "9", "--seed=-1"], "--seed: '-1' is not a whole number"),
        (["plan", "DATA", "--capacity", "9", "--ranks", "1" + "0" * 8], "100,000,000 micro-batches for"),
        (["plan", "DATA", "--capacity", "9", "--accumulation", "1" + "0" * 17], "ask for fewer ranks, or a smaller"),
        (["plan", "DATA", "--method", "sorted", "--ranks", "1" + "0" * 17, "--rows", "1" + "0" * 17], "ask for fewer"),
        (["plan", "DATA"], "packing needs a capacity"),
        (["plan", "DATA", "--capacity", "9", "--group-size", "2"], "group_size"),
        (["plan", "DATA", "--capacity", "9", "--tokenizer", "./nowhere"], "there is no such folder"),
        (["plan", "absent.txt", "--capacity", "9"], "absent.txt"),
        (["pln", "DATA"], "did you mean plan?"),
        (["data", "tokenise"], "did you mean tokenize?"),
        (["data", "tokenize", "DATA", "--out", "x", "--skip-invalids"], "did you mean --skip-invalid?"),
        (["plan"], "DATA is missing"),
        (["plan", "DATA", "--capacity", "9", "--utilisation", "0.4"], "--utilisation works only with --profile"),
        (["plan", "--profile", "smoke", "--utilisation", "40"], "'40' is not a share above 0 and up to 1"),
        (["plan", "--profile", "smokey"], "did you mean 'smoke'?"),
        (["plan", "--profile", "smoke", "--ranks", "2"], "--ranks comes from the profile smoke"),
        (["plan", "--profile", "smoke"], "are over the capacity of 256 tokens of profile smoke"),
        (["plan", "absent.txt", "--profile", "smoke"], "absent.txt"),
        (["plan", "DATA", "--profile", "smoke", "--long", "uniform"], "--long is for assumed lengths"),
        ([], "required: COMMAND"),
    ],
)
def test_a_wrong_command_line_is_refused_with_what_to_do(lengths, capsys, arguments, part):
    assert part in refused(capsys, *(lengths if word == "DATA" else word for word in arguments))


def test_a_line_that_is_no_length_is_named(tmp_path, capsys):
    (tmp_path / "bad.txt").write_text("2\nfour\n3\n")
    told = refused(capsys, "plan", str(tmp_path / "bad.txt"), "--capacity", "9")
    assert "bad.txt" in told and "line 2" in told
    (tmp_path / "bad.txt").write_text(f"{2**40}\n")
    assert "a positive integer below 2^40" in refused(capsys, "plan", str(tmp_path / "bad.txt"), "--capacity", "9")


def test_a_plan_that_the_memory_does_not_hold_is_refused_in_a_sentence(lengths, capsys, monkeypatch):
    def make_plan(*_, **__):
        raise MemoryError

    monkeypatch.setattr("longalign.recipe.batching.make_plan", make_plan)
    told = refused(capsys, "plan", lengths, "--capacity", "9", "--ranks", "999999999999")
    assert told.strip() == "longalign: the memory of this machine is too small for this: give fewer ranks, or less data"


def test_help_is_quick_and_loads_neither_numpy_nor_torch():
    code = (
        "import sys, longalign.cli.main as c\ntry: c.main(['--help'])\n"
        "except SystemExit: sys.exit(bool({'numpy', 'torch', 'yaml'} & set(sys.modules)))"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "plan" in done.stdout
    assert time.monotonic() - begun < 2


def test_version_names_the_package_and_torch(capsys):
    assert main.main(["version"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("longalign ") and "\ntorch " in told
