"""Counts are taken as given or refused; planning imports fast, without torch, and without jaxtyping if need be."""

import subprocess
import sys

import numpy as np
import pytest

from longalign.common.array_types import as_counts

PLANNING = (
    "from longalign.recipe import batching, cost, packing, weights"
)


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_planning_works_without_jaxtyping():
    blocked = "import sys; sys.modules['jaxtyping'] = None\n"
    assert run(f"{blocked}{PLANNING}\nprint(packing.next_fit([2, 4, 3], 7))") == "[[0, 1], [2]]"


def test_planning_does_not_import_torch_and_takes_less_than_half_a_second():
    start, end = "import sys, time; start = time.process_time()", "time.process_time() - start, 'torch' in sys.modules"
    runs = [run(f"{start}\n{PLANNING}\nprint({end})").split() for _ in range(3)]
    assert {torch for _, torch in runs} == {"False"}
    assert min(float(seconds) for seconds, _ in runs) < 0.5


@pytest.mark.parametrize("values", [[2, 4, 3], (2, 4, 3), range(3), np.array([2, 4, 3], dtype=np.int32), []])
def test_counts_become_int64_without_a_change_of_value(values):
    array = as_counts(values)
    assert array.dtype == np.int64
    assert array.tolist() == list(values)


def test_counts_are_a_copy_of_the_caller_s_array():
    given = np.array([2, 4, 3])
    as_counts(given)[0] = 7
    assert given.tolist() == [2, 4, 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([2, -4, 3], r"lengths\[1\] is -4; a number of tokens cannot be negative"),
        ([2.0, 4.5], "lengths must be integers .* dtype float64"),
        ([True, False], "lengths must be integers .* dtype bool"),
        ([[2, 4], [3, 3]], r"one axis.* shape \(2, 2\)"),
        (7, r"one axis.* shape \(\)"),
    ],
)
def test_what_is_not_a_count_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        as_counts(values)


def test_the_error_calls_the_counts_by_their_name():
    with pytest.raises(ValueError, match=r"target_counts\[0\] is -1"):
        as_counts([-1], name="target_counts")
