"""Stage f of the GPU program: it runs through at tiny sizes, a size that has not learnt stops it, and its data is
the same wherever it is made."""

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.gpu import learning, learning_data
from benchmarks.gpu.rows import Budget, Context

from longalign.common.array_types import IGNORE_INDEX
from longalign.data.jsonl import DataError
from longalign.miniature import tokenizer

SIZE = learning.TINY[0]


def context(**options):
    return Context(torch.device("cpu"), **{"tiny": False, "out": Path(), **options})


def stage(monkeypatch, *gains, seconds=10.0, **options):
    """The stage with sizes that learn nothing and report these gains; returns its rows and the sizes that were run."""
    left, ran = list(gains), []

    def one_size(context, seen, size, *_):
        ran.append(size.name)
        yield from ()
        return left.pop(0)

    monkeypatch.setattr(learning, "_one_size", one_size)
    monkeypatch.setattr(learning, "_data", lambda context, size: ({}, ""))
    monkeypatch.setattr(learning, "size_budget", lambda context, size: Budget(seconds))
    return list(learning.run(context(**options))), ran


def test_tiny_takes_every_size_through_the_same_code_with_a_number_in_every_row(tmp_path):
    rows = list(learning.run(context(tiny=True, out=tmp_path)))
    assert all(row.status == "ok" and math.isfinite(row.value) for row in rows)
    for size in learning.TINY:
        for arm in learning.ARMS:
            told = {row.metric for row in rows if row.case == f"{size.name}, {arm}"}
            assert {f"exact match at {length:,}" for length in size.lengths} <= told
            assert sum(metric.startswith("needle at") for metric in told) == 5 * size.needle_depths
            assert {"speed", "loss at the end"} <= told


def test_rows_of_a_card_that_fell_back_to_a_slower_path_are_failed_ones_with_the_reason(monkeypatch):
    monkeypatch.setattr(learning.backends, "slower", lambda seen, context: "computed by sequences and not by a kernel")
    monkeypatch.setattr(learning, "train", lambda *_, **__: learning.Trained(1, 10, 1.0, 1.0))
    monkeypatch.setattr(learning, "token_recall", lambda *_: 0.5)
    monkeypatch.setattr(learning, "asked", lambda *_: {(SIZE.longest, 1.0): 0.5})
    parts = {"extension": [], "short": [], "long": [], "test": [], "needle": [], "probe": [{"cell": (64, None)}]}
    rows = list(learning._one_size(context(), {"sequences"}, SIZE, parts, None, ""))
    assert {row.status for row in rows} == {"failed"} and all(row.value is not None for row in rows)
    assert {row.backend for row in rows} == {"sequences"} and all("not by a kernel" in row.note for row in rows)


def test_the_paper_size_is_not_run_when_the_size_before_gains_less_than_the_margin(monkeypatch):
    rows, ran = stage(monkeypatch, 0.3, learning.MARGIN - 0.01)
    assert ran == ["1:64", "1:16"]
    assert [row.status for row in rows] == ["ok", "failed"]
    assert "1:1 is not run" in rows[-1].note and rows[-1].value == pytest.approx(learning.MARGIN - 0.01)


def test_the_paper_size_is_run_when_both_sizes_before_learn(monkeypatch):
    rows, ran = stage(monkeypatch, 0.3, learning.MARGIN, 0.0)
    assert ran == ["1:64", "1:16", "1:1"] and all(row.status == "ok" for row in rows)


def test_a_gain_that_is_not_a_number_is_no_gain(monkeypatch):
    rows, ran = stage(monkeypatch, math.nan)
    assert ran == ["1:64"] and rows[-1].status == "failed"


def test_a_size_for_which_the_time_is_too_short_is_not_begun(monkeypatch):
    rows, ran = stage(monkeypatch, 0.3, 0.3, seconds=100.0, ends=time.monotonic() + 30)
    assert ran == ["1:64"]
    assert "it takes 100 s" in rows[-1].note and "s are left" in rows[-1].note


def test_the_stage_is_counted_to_fit_into_eighty_seconds_on_a_card_and_more_where_its_data_must_be_made(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(learning, "STORES", tmp_path)
    card = Context(torch.device("cuda"), False, Path())
    unprepared = learning.budget(card)
    for size in learning.SIZES:
        learning_data.path(size, tmp_path).touch()
    counted = learning.budget(card)
    assert 40 < counted.seconds <= 80 and counted.flops > 1e15
    assert unprepared.seconds > counted.seconds + 3 * learning_data.START_SECONDS


def test_the_lengths_that_are_counted_are_those_that_are_drawn():
    size = replace(SIZE, longest=2048, documents=60, short=60, long=60)
    for part in ("extension", "short", "long"):
        drawn = np.array([len(learning_data.sequence(size, part, index)["input_ids"]) for index in range(60)], float)
        tokens, squares = learning_data.moments(size, part)
        assert drawn.mean() == pytest.approx(tokens, rel=0.2) and (drawn**2).mean() == pytest.approx(squares, rel=0.35)


def test_prepared_data_is_the_same_to_the_byte_in_any_order_and_is_read_back_as_it_was_made(tmp_path):
    first = learning_data.write(SIZE, learning_data.made(SIZE), tmp_path / "a")
    backwards = {
        part: [learning_data.sequence(SIZE, part, index) for index in reversed(range(count))][::-1]
        for part, count in reversed(SIZE.counts().items())
    }
    second = learning_data.write(SIZE, {part: backwards[part] for part in learning_data.PARTS}, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    read, told = learning_data.of(SIZE, tmp_path / "a")
    assert told == "data prepared before"
    for part, sequences in backwards.items():
        for one, made in zip(read[part], sequences, strict=True):
            assert one.get("cell") == made.get("cell")
            assert all((one[name] == made[name]).all() for name in ("input_ids", "labels"))


def test_data_of_another_size_and_no_data_are_refused_and_say_how_it_is_made(tmp_path):
    with pytest.raises(DataError, match="--prepare"):
        learning_data.read(SIZE, tmp_path)
    learning_data.write(SIZE, learning_data.made(SIZE), tmp_path)
    with pytest.raises(DataError, match="other data .*prepare it again"):
        learning_data.read(replace(SIZE, long=SIZE.long + 1), tmp_path)


@pytest.mark.slow
def test_several_processes_make_the_same_data(tmp_path):
    paths = [learning_data.write(SIZE, learning_data.made(SIZE, processes=n), tmp_path / str(n)) for n in (1, 2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("part", ["test", "needle"])
def test_the_answer_to_every_question_stands_in_its_document(part):
    words = tokenizer.load()
    for index in range(4):
        one = learning_data.sequence(replace(SIZE, per_cell=4, per_needle=4), part, index)
        answer = words.decode(one["labels"][one["labels"] != IGNORE_INDEX], skip_special_tokens=True)
        document = words.decode(one["input_ids"]).split("<|user|>")[1].rpartition("\n\n")[0]
        assert all(fact.strip() in document for fact in answer.replace(".", ".\n").splitlines())


def test_a_step_of_instructions_holds_about_as_many_sequences_in_every_arm():
    short = [{"input_ids": np.zeros(n, int), "labels": np.zeros(n, int)} for n in (40, 60, 80, 100) * 60]
    long = [{"input_ids": np.zeros(n, int), "labels": np.zeros(n, int)} for n in (200, 500, 900, 1024) * 20]
    for sequences in (short, short + long):
        data, tokens = learning.planned(sequences, step=0, epochs=2, exponent=0.0)
        steps = len(data) // data.per_step
        assert 18 <= 2 * len(sequences) / steps <= 30 and tokens == sum(len(one["input_ids"]) for one in sequences)
