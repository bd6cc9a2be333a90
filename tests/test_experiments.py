"""Arms of the experiments: which runs there are, which are shared, what a seed changes."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from longalign.common import paths
from longalign.data.store import TokenStore
from longalign.experiments import design, long_base, pages
from longalign.experiments.base_models import Start
from longalign.experiments.design import Arm
from longalign.experiments.evaluations import LOSS
from longalign.experiments.profiles import load_profile
from longalign.miniature.pretraining import RECIPES, Recipe
from longalign.miniature.settings import folder_name
from longalign.report import default_run, tables
from longalign.train import workers
from longalign.train.trainer import TrainingConfig, make_plans


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LONGALIGN_RUNS", str(tmp_path_factory.mktemp("experiments")))
        profile = load_profile("smoke")
        windows = [long_base.extension(Start(design.windowed(profile, w), "mini-7b")) for w in profile.windows]
        starts = [*design.long_bases(profile), design.short_continual_training(profile), *windows]
        workers.execute_all(starts, workers=2)
        yield profile


def data(run):
    return json.loads((TokenStore(run.store).folder / "manifest.json").read_text())["sha256"]


def test_every_experiment_has_its_arms_and_runs_that_two_ask_for_are_the_same(profile):
    names = ("data_scale", "data_source", "methods", "model_scale", "windows", "exponents", "grid", "released_code")
    found = {name: getattr(design, name)(profile) for name in names}
    assert {arm.model for arm in found["methods"]} == {"mini-6b", "mini-7b"}
    sorted_10k = found["data_scale"][Arm("LongAlign-10k", "mini-6b", 0)].key
    assert sorted_10k == found["methods"][Arm("sorted", "mini-6b", 0)].key
    assert sorted_10k == found["data_source"][Arm("LongAlign-10k", "mini-6b", 0)].key
    assert sorted_10k == found["grid"][Arm("long continual training, LongAlign-10k", "mini-6b", 0)].key
    packed = found["methods"][Arm("packing + loss weighting", "mini-6b", 0)].key
    assert packed == found["exponents"][Arm("a = 0", "mini-6b", 0)].key
    assert packed == found["released_code"][Arm("packing + loss weighting", "mini-6b", 0)].key
    keys = [run.key for arms in found.values() for run in arms.values()]
    assert len(set(keys)) < len(keys)
    for arms in found.values():
        assert len({run.key for run in arms.values()}) == len(arms), "arms of one experiment differ"


@pytest.mark.parametrize("name", ["data_scale", "data_source", "methods", "model_scale"])
def test_a_default_run_is_said_to_have_the_seeds_that_the_design_gives_its_arms(profile, name):
    default = dataclasses.replace(profile, seeds=3, seeds_of_slow_arms=1)
    arms = {arm[:2] for arm in getattr(design, name)(default)}
    rows = pd.DataFrame([(name, *arm, seed) for arm in sorted(arms) for seed in range(8)],
                        columns=["experiment", "arm", "model", "seed"])  # fmt: skip
    kept = rows[default_run.trained_by_default(rows, default)]
    assert set(kept[["arm", "model", "seed"]].itertuples(index=False, name=None)) == set(getattr(design, name)(default))


def test_composed_times_of_a_default_run_have_three_seeds_of_the_first_model_and_one_of_others(profile):
    default = dataclasses.replace(profile, seeds=3, seeds_of_slow_arms=1)
    for model, trained in zip(profile.models, (3, 1, 1), strict=True):
        rows = pd.DataFrame({"experiment": "composed_times", "arm": "packing", "model": model, "seed": range(4)})
        assert default_run.trained_by_default(rows, default).tolist() == [seed < trained for seed in range(4)]


def test_seeds_that_a_few_arms_have_more_of_are_none_of_a_default_run_whatever_its_first_seed(profile):
    arms = [("packing", 32), ("naive", 8)]
    rows = pd.DataFrame([("methods", arm, profile.models[1], seed) for arm, seeds in arms for seed in range(seeds)],
                        columns=["experiment", "arm", "model", "seed"])  # fmt: skip
    default = dataclasses.replace(profile, seeds=3, seeds_of_slow_arms=3)
    kept = rows[default_run.trained_by_default(rows, default, first=6)]
    assert kept.groupby("arm").seed.apply(sorted).to_dict() == {"packing": [0, 6, 7], "naive": [0, 6, 7]}


@pytest.mark.parametrize(("seeds", "found"), [(0, 0), (7, 0), (8, 32), (40, 40)])
def test_packing_with_and_without_weighting_has_32_seeds_where_all_arms_have_eight(profile, seeds, found):
    arms = design.weighting(profile, seeds)
    packed = {(method, model) for method in ("packing", "packing + loss weighting") for model in profile.models[:2]}
    assert {arm[:2] for arm in arms} == (packed if found else set())
    assert len(arms) == found * len(packed)
    methods = design.methods(profile, seeds) if found else {}
    assert all(arms[arm] == run for arm, run in methods.items() if arm in arms)


def test_a_seed_draws_other_data_and_starts_from_the_same_long_base(profile):
    arms = design.data_source(profile, 2)
    first, second = (arms[Arm("LongAlign-10k", "mini-6b", seed)] for seed in (0, 1))
    assert first.start == second.start and data(first) != data(second)
    assert first.training["seed"] != second.training["seed"]


def test_a_training_has_the_settings_of_the_profile_but_for_what_makes_its_arm(profile):
    marked = dataclasses.replace(profile.training, beta1=0.8, weight_decay=0.1, checkpoint_every=7, capacity=2048)
    arms = design.methods(dataclasses.replace(profile, training=marked), 1)
    of_an_arm = {"rows", "micro_batches_per_step", "exponent"}
    for run in arms.values():
        shared = {name: value for name, value in marked.shared().items() if name not in of_an_arm}
        assert shared.items() <= dataclasses.asdict(TrainingConfig(**run.training)).items()


def test_a_seed_starts_from_the_base_of_its_number_modulo_the_bases_and_each_base_reads_its_own_documents(
    profile, tmp_path, monkeypatch
):  # fmt: skip
    for number in range(3):
        (tmp_path / folder_name("mini-6b", number)).symlink_to(paths.bases() / "mini-6b")
    start = Start(profile, "mini-6b")
    monkeypatch.setattr(paths, "bases", lambda: tmp_path)
    monkeypatch.setitem(RECIPES, "mini-6b", Recipe((), seeds=(0, 2, 3)))
    long_bases = design.long_bases(profile, "mini-6b")
    assert [Path(run.start).name for run in long_bases] == ["mini-6b", "mini-6b-1", "mini-6b-2"]
    assert design.long_bases(profile, "mini-6b", seeds=[4, 7]) == long_bases[1:2]
    assert len({data(run) for run in long_bases}) == len({run.training["seed"] for run in long_bases}) == 3
    runs = [design.fine_tuning(start, method="sorted", seed=seed) for seed in range(5)]
    assert [run.start for run in runs] == [str(long_bases[seed % 3].model) for seed in range(5)]
    arms = design.grid(profile, 4)
    short = [design.short_continual_training(profile, number) for number in range(3)]
    for seed in range(4):
        assert arms[Arm("short continual training, LongAlign-0k", "mini-6b", seed)].start == str(short[seed % 3].model)


def test_a_run_trains_those_long_bases_that_an_arm_starts_from(profile, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    finished = []
    monkeypatch.setattr(workers, "execute_all", lambda jobs, **_: finished.append([job.label for job in jobs]))
    monkeypatch.setattr(pages, "trainings", lambda arms: {})
    page, model = pages.Page("07_training_methods", "smoke"), profile.models[1]
    arms = {Arm("sorted", model, 0): design.fine_tuning(Start(profile, model), method="sorted")}
    with pytest.raises(KeyError):  # nothing was trained, so there is nothing to tell
        page.train(arms, first=design.long_bases(profile))
    assert finished == [[f"{model} context extension"], [arms[Arm("sorted", model, 0)].label]]


def test_rates_fall_with_the_width_where_the_profile_says_so(profile):
    scaled = dataclasses.replace(profile, rate_width=96)
    for model, share in (("mini-7b", 1), ("mini-13b", 96 / 128)):
        base, starts = long_base.extension(Start(profile, model)), [Start(one, model) for one in (profile, scaled)]
        runs = [(long_base.extension(one), design.fine_tuning(one, method="sorted", base=base)) for one in starts]
        for one, of_its_width in zip(*runs, strict=True):
            assert of_its_width.training["learning_rate"] == pytest.approx(share * one.training["learning_rate"])


def test_more_seeds_add_runs_and_keep_those_there_are(profile):
    few, many = design.data_scale(profile, 1), design.data_scale(profile, 3)
    assert {arm: run.key for arm, run in few.items()}.items() <= {arm: run.key for arm, run in many.items()}.items()
    assert len(many) == 3 * len(few)


def test_equal_steps_are_as_many_as_the_full_dose_takes(profile):
    profile = dataclasses.replace(profile, corpus=dataclasses.replace(profile.corpus, long=36))
    arms = design.data_scale(profile, 1)

    def steps(run):
        config = TrainingConfig(**run.training)
        planned = sum(len(plan.steps) for plan in make_plans(TokenStore(run.store), config))
        return min(planned, config.steps or planned)

    full = steps(arms[Arm("LongAlign-10k", "mini-6b", 0)])
    for suite in ("LongAlign-0k", "LongAlign-5k"):
        assert steps(arms[Arm(f"{suite}, equal steps", "mini-6b", 0)]) == full
    assert steps(arms[Arm("LongAlign-0k", "mini-6b", 0)]) < full, "the doses differ, or nothing would be equalled"


def test_benchmarks_do_not_depend_on_the_seed_or_the_arm_and_only_losses_read_the_training_data(profile):
    arms = design.data_source(profile, 2)
    scored = design.evaluations(profile, arms, names=["test", LOSS])
    assert len(scored) == 2 * len(arms) and len({one.items for one in scored.values()}) == 1
    for what, one in scored.items():
        assert one.benchmark == what.benchmark
        assert one.train == (arms[what[:3]].store if what.benchmark == LOSS else "")


def test_what_trainings_took_is_told_by_arm(profile):
    base = design.long_bases(profile)[0]
    told = pages.trainings({Arm("long base", "mini-13b", 0): base})["long base mini-13b 0"]
    assert told["key"] == base.key and told["steps"] >= 1 and told["peak_memory_mb"] > 100
    assert profile.extension.tokens <= told["tokens"] < 2 * profile.extension.tokens
    assert 0 < told["cpu_seconds"] and 0 < told["seconds"]


def test_methods_have_the_same_names_where_they_train_and_where_they_are_drawn():
    assert tuple(design.METHODS) == tables.METHODS
