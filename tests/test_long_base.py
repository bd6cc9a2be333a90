"""The committed long bases are what the context extension of the committed short bases gives."""

import dataclasses
import shutil

import pytest

from longalign.common import paths, provenance
from longalign.evals.teacher_forced import token_recall
from longalign.experiments import design, long_base, training_data
from longalign.experiments.base_models import Start
from longalign.experiments.profiles import load_profile
from longalign.miniature import training_sets
from longalign.train import models
from longalign.train.runs import Run

LAPTOP = load_profile("laptop")
each = pytest.mark.parametrize("model", LAPTOP.models)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Runs and long bases below a folder of the test."""
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(paths, "long_bases", lambda: tmp_path / "long_bases")
    return tmp_path


@each
def test_fine_tuning_starts_from_the_committed_long_base_as_its_record_says_it_is(model):
    found = long_base.extension(Start(LAPTOP, model))
    assert isinstance(found, long_base.LongBase) and found.folder == paths.long_bases() / model
    files = found.record()["files"]
    assert set(files) >= {"events.jsonl", "model/config.json", "model/model.safetensors"}
    assert files["model/model.safetensors"] == provenance.hash_files(found.model / "model.safetensors")
    assert found.record()["settings"]["start"] == Start(LAPTOP, model).about()["sha256"]
    config = models.outline(found.model).config
    assert (config.rope_parameters["rope_theta"], config.max_position_embeddings) == (2_000_000, 1024)
    assert design.fine_tuning(Start(LAPTOP, model), method="sorted").start == str(found.model)
    assert design.long_bases(LAPTOP, model, seeds=[0]) == [found]


@pytest.mark.parametrize("change", [
    {"seed": 100}, {"rate_width": 0, "extension": dataclasses.replace(LAPTOP.extension, learning_rate=2e-3)},
    {"extension": dataclasses.replace(LAPTOP.extension, tokens=4000)},
    {"corpus": dataclasses.replace(LAPTOP.corpus, seed=1)},
])  # fmt: skip
def test_other_settings_are_trained(change):
    profile = dataclasses.replace(LAPTOP, **change)
    assert long_base.find(Start(profile, "mini-6b"), profile.extension) is None


def test_bases_of_other_numbers_and_windows_are_trained(elsewhere):
    shutil.copytree(paths.results() / "long_bases", paths.long_bases())
    for start in (Start(LAPTOP, "mini-7b", base=1), Start(design.windowed(LAPTOP, 512), "mini-7b")):
        assert long_base.find(start, start.profile.extension) is None
    short = dataclasses.replace(LAPTOP, extension=dataclasses.replace(LAPTOP.extension, tokens=4000))
    assert isinstance(long_base.extension(Start(short, "mini-6b")), Run)


def test_one_that_is_damaged_is_refused_with_what_to_do(elsewhere):
    shutil.copytree(paths.results() / "long_bases", paths.long_bases())
    with (paths.long_bases() / "mini-6b" / "model" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"mini-6b is not what its record says: `git checkout .*` brings it back"):
        long_base.extension(Start(LAPTOP, "mini-6b"))


@pytest.mark.slow
def test_what_is_built_is_found_and_is_what_the_run_trained(elsewhere, monkeypatch):
    monkeypatch.setattr(long_base, "PROFILE", "smoke")
    profile = load_profile("smoke")
    model = profile.models[0]
    trained = long_base.extension(Start(profile, model))
    assert isinstance(trained, Run)
    for _ in range(2):  # the second time nothing is trained
        long_base.main(["--models", model])
    found = long_base.extension(Start(profile, model))
    assert isinstance(found, long_base.LongBase) and found.finished and found.key == trained.key
    assert provenance.hash_model(found.model) == provenance.hash_model(trained.model)
    assert "run" not in found.record(), "it names folders of this machine"


@pytest.mark.slow
def test_the_documents_are_still_those_that_the_committed_long_base_has_read(elsewhere):
    record = long_base.LongBase("", paths.results() / "long_bases" / "mini-6b").record()
    store = training_data.extension_store(Start(LAPTOP, "mini-6b"), "extension", LAPTOP.extension)
    assert (store.sha256, int(store.lengths.sum())) == (record["data"], record["tokens"])


@each
@pytest.mark.slow
def test_a_long_base_looks_facts_up_where_its_short_base_cannot(model):
    probe = training_sets.recall_probe(1024, 20)
    start, found = Start(LAPTOP, model), long_base.extension(Start(LAPTOP, model))
    long, short = (token_recall(models.load_model(folder), probe) for folder in (found.model, start.folder))
    assert long > 0.8 and short < 0.5
