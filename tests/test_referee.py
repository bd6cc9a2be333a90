"""What the claims of later papers compare: their arms, their questions, and the profile that trains them."""

from dataclasses import replace

import pytest

from longalign.experiments import later
from longalign.experiments.preferences import Preference
from longalign.experiments.profiles import load_profile
from longalign.miniature import benchmarks, samples, training_sets
from longalign.miniature.settings import Evaluation
from longalign.report.later import load_later
from longalign.train.config import TrainingConfig

PROFILE, LAPTOP = load_profile("referee"), load_profile("laptop")
FEW = Evaluation(lengths=(128, 512), cell_questions=4, conflict_questions=6)
LEDGER = [claim for claim in load_later() if claim.results in later.BENCHMARKS]


def questions(claim):
    """How many questions of the profile a claim reads."""
    counts = PROFILE.evaluation
    per_task = {"exact_match": counts.per_cell * len(claim.lengths or ()), "accuracy": counts.short_per_task}
    longbench = counts.longbench_per_task
    of = {"input": counts.cell_questions, "qa": longbench, "summarization": longbench}
    return sum(next((of[word] for word in of if word in task), per_task.get(claim.metric)) for task in claim.tasks)


@pytest.mark.parametrize("claim", LEDGER, ids=lambda claim: claim.id)
def test_the_profile_trains_the_arms_seeds_and_questions_that_the_ledger_plans(claim):
    known = {*later.NORMALISERS, "padding", *(f"{name}, {share}" for name in later.CONTINUAL for share in later.SHARES),
             "SFT", "SFT, then DPO"}  # fmt: skip
    arms = {claim.run(arm)[1] for arm in claim.arms}
    assert arms <= known
    assert claim.seeds == (later.STAGES_SEEDS if claim.results == "stages" else PROFILE.seeds)
    assert claim.questions == questions(claim)


def test_the_profile_is_the_laptop_s_but_for_seeds_and_questions_and_executes_no_notebook():
    asked = replace(PROFILE.evaluation, per_cell=LAPTOP.evaluation.per_cell)
    same = replace(PROFILE, name="laptop", notebooks=None, seeds=LAPTOP.seeds,
                   seeds_of_slow_arms=LAPTOP.seeds_of_slow_arms, evaluation=asked)  # fmt: skip
    assert same == LAPTOP and PROFILE.notebooks == ()


def test_the_second_of_two_stages_is_trained_at_a_rate_that_has_not_fallen():
    """At the constant rate that a pilot chose, as all that it is compared with."""
    claims = [claim for claim in LEDGER if claim.id.startswith("nemotron-second")]
    assert len(claims) == 2 and {claim.results for claim in claims} == {"stages"}
    smoke = load_profile("smoke")
    arms, own = later.stages(smoke, 1), next(iter(later.normalisers(smoke, 1).values()))
    assert {arm.arm for arm in arms} == set(later.STAGES)
    for arm, run in arms.items():
        assert run.training["schedule"] == "constant_with_warmup" and run.store == own.store
        assert run.training["learning_rate"] == later.STAGES_RATE * own.training["learning_rate"]
        assert later.STAGES[arm.arm].items() <= run.training.items()
    assert len(later.stages(smoke)) == len(later.STAGES) * smoke.seeds
    assert {run.seed for run in later.stages(replace(smoke, seeds=18))} == set(range(later.STAGES_SEEDS))


def test_what_preference_training_starts_from_is_trained_before_it():
    few = replace(PROFILE, seeds=2)
    trained = {str(run.model) for run in later.starts("preferences", few)}
    begun = {run.start for run in later.preferences(few).values() if isinstance(run, Preference)}
    assert begun == trained and len(begun) == few.seeds


def test_each_normaliser_differs_from_loss_weighting_in_what_its_arm_says_alone():
    smoke = load_profile("smoke")
    arms = {arm.arm: run for arm, run in later.normalisers(smoke, 1).items()}
    own = arms["sequence mean"].training
    for name, changes in later.NORMALISERS.items():
        training = arms[name].training
        other = {key for key in training if training[key] != own.get(key)} - {"snapshots"}
        assert {key: training[key] for key in other} == changes
        assert arms[name].store == arms["padding"].store and TrainingConfig(**training)
    assert (arms["padding"].training["method"], arms["padding"].training["exponent"]) == ("naive", 1.0)


def test_cells_differ_in_how_much_is_read_and_asked_and_in_nothing_else():
    items = list(benchmarks.items("cells", FEW, window=512))
    assert len({item["id"] for item in items}) == len(items) == 16
    for item in items:
        read, written = (part.split()[0] for part in item["task"].split(" - "))
        limit = {"short": 128, "long": 512}[read]
        assert item["cell"] == limit and limit - 24 < item["length"] <= limit and item["language"] == "en"
        prompt, answer = (message["content"] for message in item["messages"])
        sentences = [f"{sentence.strip()}." for sentence in answer.rstrip(".").split(".")]
        assert len(sentences) == {"short": 1, "long": 4}[written]
        assert all(sentence in prompt for sentence in sentences)


def test_a_document_contradicts_what_was_learnt_or_does_not_speak_of_it():
    known = {fact.key: fact.text for fact in samples.known_facts()}
    items = list(benchmarks.items("conflicts", FEW, window=512))
    assert len({item["id"] for item in items}) == len(items) == 12
    for item in items:
        (key,) = (key for key in known if item["options"][0].startswith(key))
        document = item["messages"][0]["content"].rpartition("\n\n")[0]
        right = item["options"][item["right"]]
        assert known[key] in item["options"] and len(set(item["options"])) == 4 and item["length"] <= 128
        assert all(option.startswith(key) for option in item["options"]) and right == item["messages"][1]["content"]
        against = item["task"] == "document against memory"
        assert (key in document) == against == (right in document) == (right != known[key])


def test_memory_documents_state_known_facts_and_come_where_they_are_asked_for(tmp_path):
    known = {fact.text for fact in samples.known_facts()}
    document = samples.memory_document("extension", 0, 3, length=128)
    assert len(document["answers"]) > 3
    assert {document["text"][start:end] for start, end in document["answers"]} <= known
    options = {"tokens": 3000, "lengths": (64, 128), "recall_share": 0.25}
    none, zero, half = (
        training_sets.documents_store("x", tmp_path / str(number), **options, **more)
        for number, more in enumerate(({}, {"memory_share": 0.0}, {"memory_share": 0.5}))
    )
    assert none.sha256 == zero.sha256 != half.sha256
