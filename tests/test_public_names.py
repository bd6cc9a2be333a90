"""The names of the package itself: each is there, and asking for one loads no more than it needs."""

import subprocess
import sys

import pytest

import longalign

PLANNING = {"make_plan", "plan_naive", "plan_packing", "plan_sorted", "Plan", "summarize", "loss_weights"}
TENSORS = {"EvaluationDataset", "PlannedDataset", "measure", "PackedCollator", "PaddedCollator", "weighted_loss",
           "weighted_cross_entropy", "register_attention"}  # fmt: skip


def loaded_by(code):
    """The heavy packages that a process of its own has loaded after this code, and the processor seconds it took."""
    told = "print(time.process_time() - begun, *{'torch', 'transformers', 'pandas', 'yaml'} & set(sys.modules))"
    command = [sys.executable, "-c", f"import sys, time; begun = time.process_time(); {code}; {told}"]
    seconds, *packages = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return set(packages), float(seconds)


@pytest.mark.parametrize("name", sorted(PLANNING))
def test_a_name_that_plans_is_imported_without_torch(name):
    assert not loaded_by(f"from longalign import {name}")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TENSORS))
def test_a_name_of_tensors_is_imported_without_transformers(name):
    assert loaded_by(f"from longalign import {name}")[0] == {"torch"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(longalign.__all__) - PLANNING - TENSORS))
def test_every_other_name_can_be_imported(name):
    loaded_by(f"from longalign import {name}")


def test_the_package_alone_is_imported_in_a_tenth_of_a_processor_second():
    assert min(loaded_by("import longalign")[1] for _ in range(3)) < 0.1


def test_the_public_names_are_listed_and_another_is_refused_with_those_there_are():
    assert set(longalign.__all__) <= set(dir(longalign)) and PLANNING | TENSORS <= set(longalign.__all__)
    with pytest.raises(AttributeError, match="no attribute 'plan_packings'.*plan_packing"):
        longalign.plan_packings  # noqa: B018
