"""The ledger: what is misspelt is refused with file and claim named, and the committed one is complete."""

import math
import re

import pytest
import yaml

from longalign.common.config import ConfigError
from longalign.report.claim_schema import GPU, LAPTOP, load_ledger

FIRST = {
    "id": "first", "source": "Table 2", "statement": "Long data help.", "notebook": "05_data_scale",
    "paper": {"LongAlign-10k": 6.21, "LongAlign-0k": 3.73}, "results": "data_scale", "model": "mini-6b",
    "metric": "score", "tasks": "chat", "arms": {"LongAlign-10k": 1, "LongAlign-0k": -1}, "direction": "greater",
}  # fmt: skip
GROUPS = {"tasks": {"chat": ["chat-reasoning", "chat-coding"]}, "lengths": {"long": [512, 1024]}}


def ledger(folder, *claims):
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({**GROUPS, "claims": list(claims)}, sort_keys=False), encoding="utf-8")
    return load_ledger(path)


def test_groups_become_their_members_and_numbers_keep_their_arms(tmp_path):
    (claim,) = ledger(tmp_path, FIRST | {"lengths": "long"})
    assert claim.tasks == ("chat-reasoning", "chat-coding") and claim.lengths == (512, 1024)
    assert [(arm.arm, arm.value) for arm in claim.arms] == [("LongAlign-10k", 1.0), ("LongAlign-0k", -1.0)]
    assert [number.value for number in claim.paper] == [6.21, 3.73]
    assert claim.scale == LAPTOP and claim.null == 0


def test_tasks_that_are_left_out_are_all_and_a_list_is_taken_as_it_is(tmp_path):
    without = {key: value for key, value in FIRST.items() if key != "tasks"}
    every, some = ledger(tmp_path, without, FIRST | {"id": "second", "tasks": ["needle"]})
    assert every.tasks is None and some.tasks == ("needle",)


def test_an_arm_may_name_its_model_and_the_threshold_of_a_ratio_is_tested_as_a_logarithm(tmp_path):
    (claim,) = ledger(tmp_path, FIRST | {
        "arms": {"mini-13b|sorted": 1, "sorted": -1}, "statistic": "log_ratio", "threshold": 2})  # fmt: skip
    assert [claim.run(arm) for arm in claim.arms] == [("mini-13b", "sorted"), ("mini-6b", "sorted")]
    assert claim.null == pytest.approx(math.log(2))


def test_a_claim_of_a_gpu_names_a_stage_a_case_and_its_systems(tmp_path):
    without = {key: value for key, value in FIRST.items() if key != "tasks"}
    changes = {"scale": "gpu", "results": "figure5", "model": "8 ranks", "arms": {"naive": 1, "64 ranks|packing": -1}}
    (claim,) = ledger(tmp_path, without | changes)
    assert (claim.scale, claim.results) == (GPU, "figure5")
    assert [claim.run(arm) for arm in claim.arms] == [("8 ranks", "naive"), ("64 ranks", "packing")]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"marginn": 1}, ["unknown key marginn", "'margin'"]),
        ({"tasks": "chats"}, ["no group 'chats'", "'chat'"]),
        ({"lengths": "longest"}, ["no group 'longest'", "'long'"]),
        ({"lengths": ["512"]}, ["lengths[0] must be int"]),
        ({"arms": {"LongAlign-10k": "one"}}, ["arms[0].value must be float"]),
        ({"arms": {}}, ["key arms is missing"]),
        ({"arms": {"LongAlign-10k": 0}}, ["all weights are 0"]),
        ({"results": ""}, ["key results is missing"]),
        ({"model": ""}, ["key model is missing"]),
        ({"direction": "grater"}, ["direction is 'grater'", "'greater'"]),
        ({"statistic": "ratio"}, ["statistic is 'ratio'", "'log_ratio'"]),
        ({"direction": "equal"}, ["a margin is needed"]),
        ({"direction": "not_less"}, ["a margin is needed"]),
        ({"margin": 0.05}, ["nowhere else"]),
        ({"paper": {}}, ["a margin is needed"]),
        ({"other_scale": "theirs is a rating"}, ["a margin is needed"]),
        ({"paper": {}, "margin": 0.05, "other_scale": "theirs is a rating"}, ["there are none"]),
        ({"needs": ["size"]}, ["needs 'size'", "'sizes'"]),
        ({"restates": "frist"}, ["no claim 'frist'", "'first'"]),
        ({"direction": "equal", "margin": 0}, ["margin must be above 0"]),
        ({"direction": "equal", "margin": 0.1, "statistic": "log_ratio"}, ["needs statistic difference"]),
        ({"statistic": "log_ratio", "threshold": 0}, ["threshold of a ratio"]),
        ({"notebook": "data_scale"}, ["no numbered notebook", "data_scale"]),
        ({"scale": "needs GPT-4"}, ["cannot be shown here", "no arms", "laptop or gpu"]),
        ({"scale": "gpu"}, ["no tasks and no lengths"]),
        ({"scale": "gpu", "tasks": None, "lengths": "long"}, ["no tasks and no lengths"]),
        ({"scale": "gpu", "tasks": None, "results": ""}, ["key results is missing"]),
        ({"scale": "gpu", "tasks": None, "model": ""}, ["key model is missing"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_claim_that_cannot_be_tested_is_refused_and_named(tmp_path, changes, parts):
    with pytest.raises(ConfigError) as error:
        ledger(tmp_path, FIRST, FIRST | {"id": "second"} | changes)
    assert "claims.yaml, claim second: " in str(error.value)
    assert all(part in str(error.value) for part in parts)


def test_a_claim_without_an_id_is_named_by_its_place(tmp_path):
    with pytest.raises(ConfigError, match=r"claims\.yaml, claim 0: the key id is missing"):
        ledger(tmp_path, {key: value for key, value in FIRST.items() if key != "id"})


def test_two_claims_with_one_id_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="two claims have the id first"):
        ledger(tmp_path, FIRST, FIRST)


@pytest.mark.parametrize("text", ["claims: []", "- 1", "tasks: {}\nlengths: {}\nclaims: {}", "claims: ["])
def test_a_file_that_is_no_ledger_is_refused(tmp_path, text):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"claims\.yaml"):
        load_ledger(tmp_path / "claims.yaml")


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "claims.yaml").write_text("tasks: {}\nlengths: {}\nlengths: {}\nclaims: []")
    with pytest.raises(ConfigError, match="lengths stands twice"):
        load_ledger(tmp_path / "claims.yaml")


@pytest.fixture(scope="module")
def committed():
    return load_ledger()


def test_the_committed_ledger_loads_and_covers_every_table_and_figure_with_results(committed):
    sources = {claim.source for claim in committed}
    assert sources >= {f"Table {n}" for n in (1, 2, 3, 4)} | {f"Figure {n}" for n in (1, 4, 5, 6)}


def test_no_two_committed_claims_test_the_same_thing(committed):
    shown = [c for c in committed if c.results]
    tests = {(c.model, c.metric, c.tasks, c.lengths, c.arms, c.statistic, c.threshold) for c in shown}
    assert len(tests) == len(shown), "whatever the table that a number is read from"


def test_every_committed_claim_is_a_sentence_and_has_a_numbered_notebook(committed):
    for claim in committed:
        assert re.match(r"^[0-9]{2}_", claim.notebook), claim.id
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.id)
        assert claim.statement.endswith(".") and "\n" not in claim.statement


def test_the_margins_are_5_percent_of_a_scores_scale_and_a_tenth_of_the_steps(committed):
    margins = {"exact_match": 0.05, "fact_match": 0.05, "accuracy": 0.05, "score": 0.5, "time_to_90": 0.1}
    for claim in (claim for claim in committed if claim.margin and claim.scale == LAPTOP):
        assert claim.margin == margins[claim.metric], claim.id


def test_the_papers_numbers_bear_out_every_claim_but_one(committed):
    """A sign the wrong way round would turn every verdict about. The headline of 10 % is not that of Table 3."""
    directed = [claim for claim in committed if claim.direction in ("greater", "less")]
    assert [claim.id for claim in directed if claim.excluded is None] == ["headline-weighting-10-percent"]


def test_the_papers_effect_is_its_own_contrast_on_our_scale(tmp_path, committed):
    effect = {claim.id: claim.paper_effect for claim in committed}
    assert effect["table-2-chat-first-half"] == pytest.approx(5.97 - (3.73 + 6.21) / 2)
    assert effect["table-2-longalpaca-knowledge"] == pytest.approx(0.016), "a share, where the paper prints percents"
    assert effect["figure-5-packing-speed-6b"] == pytest.approx(math.log(45.4 / 20.5))
    assert effect["table-4-sorted-13b-over-7b"] == pytest.approx(0.64), "in the order of the arms"
    assert effect["table-2-single-document-10k-over-0k"] is None, "GPT-4's rating is another scale"
    (less,) = ledger(tmp_path, FIRST | {"direction": "less", "paper": {}, "margin": 0.5})
    assert (less.sign, less.excluded) == (-1, -0.5)


def test_a_contrast_is_counted_once(committed):
    """Claims on the same arms, tasks and metric restate one of them, whatever their statistic and threshold."""
    counted = [(c.metric, c.tasks, c.lengths, frozenset((c.run(arm), arm.value) for arm in c.arms), c.direction)
               for c in committed if c.arms and not c.restates and c.scale == LAPTOP]  # fmt: skip
    assert len(set(counted)) == len(counted)


def test_the_papers_numbers_are_those_of_the_papers_tables(committed):
    paper = {claim.id: {number.arm: number.value for number in claim.paper} for claim in committed}
    assert paper["table-2-chat-10k-over-0k"] == {"LongAlign-10k": 6.21, "LongAlign-0k": 3.73}
    assert paper["table-3-weighting-over-packing-7b"] == {"packing + loss weighting": 6.10, "packing": 5.89}
    assert paper["table-3-packing-long-equals-naive-6b"] == {
        "packing S-Doc": 65.0, "packing M-Doc": 45.1, "packing Summ": 42.8,
        "naive S-Doc": 65.4, "naive M-Doc": 45.0, "naive Summ": 44.8,
    }  # fmt: skip
    assert paper["figure-5-sorted-speed-13b"] == {"naive": 117.2, "sorted": 44.5}
