"""The ledger of later papers: complete, apart from LongAlign's own, and able to come out against its papers."""

from dataclasses import replace

import pandas as pd
import pytest

from longalign.common import paths
from longalign.common.config import ConfigError
from longalign.report import later
from longalign.report.claim_schema import MEASURABLE, Number, load_ledger
from longalign.report.claim_scores import Folder, Missing

LEDGER = later.load_later()
FOLDER = Folder(paths.results())


def test_there_are_twelve_claims_of_six_papers_that_numbers_can_decide_and_none_is_longalign_s_own():
    asked = [claim for claim in LEDGER if claim.scale in MEASURABLE]
    assert len(asked) >= 12 and len({claim.arxiv for claim in asked}) >= 6
    assert not {claim.id for claim in LEDGER} & {claim.id for claim in load_ledger()}
    assert not {claim.source for claim in LEDGER} & {claim.source for claim in load_ledger()}


COMMITTED = pd.read_csv(paths.results() / later.TABLE, dtype={"arxiv": str}, keep_default_na=False)


def test_every_claim_that_numbers_decide_would_be_found_absent_if_there_were_no_effect():
    asked = {claim.id for claim in LEDGER if claim.scale in MEASURABLE}
    assert set(COMMITTED[COMMITTED.can_fail].id) == asked and len(asked) >= 12


def test_the_committed_table_has_the_ledger_s_claims_as_they_are_stated():
    stated = COMMITTED.set_index("id").statement.to_dict()
    assert stated == {claim.id: claim.statement for claim in LEDGER}


@pytest.mark.slow
def test_the_committed_table_is_what_the_committed_scores_say():
    computed = pd.DataFrame(later.rows(paths.results())).set_index("id")
    committed = COMMITTED.set_index("id").loc[computed.index]
    assert (committed.verdict == computed.verdict).all()
    assert (committed.can_fail == computed.can_fail).all()
    assert (committed.could_fail == computed.could_fail.astype(str)).all()
    seen = pd.to_numeric(committed.would_see, errors="coerce")
    assert seen.to_numpy() == pytest.approx(computed.would_see.astype(float).to_numpy(), rel=1e-4, nan_ok=True)


def test_what_a_claim_would_see_shrinks_with_seeds_and_questions_and_grows_with_the_family():
    claim = next(claim for claim in LEDGER if claim.id == "longwriter-token-mean-helps-long-outputs")
    seen = later.would_see(claim, FOLDER, 1)
    assert later.would_see(replace(claim, seeds=2 * claim.seeds), FOLDER, 1) < seen
    assert later.would_see(replace(claim, questions=2 * claim.questions), FOLDER, 1) < seen
    assert later.would_see(claim, FOLDER, 3) > seen > 0


def test_what_a_claim_would_see_is_that_of_the_contrast_it_is_like():
    claim = next(claim for claim in LEDGER if claim.id == "hbp-token-over-sequence-mean-long")
    twice = replace(claim, arms=tuple(Number(arm.arm, 2 * arm.value) for arm in claim.arms))
    assert later.would_see(twice, FOLDER, 1) == pytest.approx(2 * later.would_see(claim, FOLDER, 1))
    with pytest.raises(Missing, match="no arm"):
        later.would_see(replace(claim, like=replace(claim.like, arms=(Number("packed", 1.0),))), FOLDER, 1)


def test_a_claim_that_would_see_only_more_than_its_margin_cannot_fail():
    claim = next(claim for claim in LEDGER if claim.like and claim.direction == "greater" and claim.margin == 0.05)
    assert later.can_fail(claim, 0.05) and not later.can_fail(claim, 0.051) and not later.can_fail(claim, None)
    harmless = next(claim for claim in LEDGER if claim.direction == "not_less")
    assert later.can_fail(harmless, 0.05) and not later.can_fail(harmless, 0.051)
    assert not any(later.can_fail(claim, 0.01) for claim in LEDGER if claim.scale not in MEASURABLE)


@pytest.mark.parametrize("own", ["no such effect", "reproduced", "contradicted", "inconclusive", "not measured"])
@pytest.mark.parametrize("premise", ["reproduced", "no such effect", "inconclusive", "not measured"])
def test_what_was_not_lost_cannot_be_shown_to_be_restored(own, premise):
    (claim,) = [claim for claim in LEDGER if claim.premise]
    row = {"id": claim.id, "verdict": own, "note": "as before"}
    found = later.by_premise(claim, row, {claim.premise: {"verdict": premise, "statement": "It is lost."}})
    if own == "no such effect" and premise != "reproduced":
        assert found["verdict"] == "cannot be shown here" and found["verdict"] != own
        assert f'needs that "It is lost", and here the verdict on this is "{premise}"; as before' == found["note"]
    else:
        assert found == row
    assert later.by_premise(replace(claim, premise=""), row, {}) == row


def test_a_premise_that_is_no_claim_is_refused(tmp_path):
    text = (paths.root() / later.LEDGER).read_text().replace("    premise: nemotron-one", "    premise: nemotron-two")
    (tmp_path / later.LEDGER).write_text(text)
    with pytest.raises(ConfigError, match="no claim nemotron-two.*, its premise"):
        later.load_later(tmp_path / later.LEDGER)


@pytest.mark.parametrize("key", [*later.ABOUT, "seeds", "questions"])
def test_a_claim_that_does_not_say_whose_it_is_and_how_it_was_read_is_refused(tmp_path, key):
    text = (paths.root() / later.LEDGER).read_text()
    first = LEDGER[0].id
    lines = text.split("\n")
    at = next(n for n, line in enumerate(lines) if line == f"  - id: {first}")
    gone = next(n for n in range(at, len(lines)) if lines[n].startswith(f"    {key}:"))
    (tmp_path / later.LEDGER).write_text("\n".join(lines[:gone] + lines[gone + 1 :]))
    with pytest.raises(ConfigError, match=f"claim {first}: .*{key}"):
        later.load_later(tmp_path / later.LEDGER)


@pytest.mark.parametrize(("worst", "word"), [(-0.051, "reproduced"), (-0.05, "reproduced"),
                                             (-0.044, "cannot be shown here")])  # fmt: skip
def test_harm_that_could_not_be_as_large_as_the_margin_cannot_be_excluded(monkeypatch, worst, word):
    (claim,) = [claim for claim in LEDGER if claim.at_worst]
    most = {"estimate": worst, "low": worst - 0.02, "high": worst + 0.02}
    monkeypatch.setattr(later.claims, "measure_all", lambda ledger, folder: [most for _ in ledger])
    row = {"id": claim.id, "verdict": "reproduced", "note": "as before"}
    found = later.by_worst(claim, row, FOLDER)
    assert found["verdict"] == word
    told = 'needs arms that can lose more than the margin of 0.05, and "sequence mean" less "token mean" is -0.044'
    assert found["note"] == ("as before" if word == "reproduced" else f"{told} (-0.064 to -0.024); as before")
    for other in (row | {"verdict": "contradicted"}, row | {"verdict": "inconclusive"}):
        assert later.by_worst(claim, other, FOLDER) == other
    assert later.by_worst(replace(claim, at_worst=()), row, FOLDER) == row


def test_the_most_harm_is_said_of_no_harm_alone(tmp_path):
    text = (paths.root() / later.LEDGER).read_text()
    (tmp_path / later.LEDGER).write_text(text.replace("    premise: ", "    at_worst: {a: 1, b: -1}\n    premise: "))
    with pytest.raises(ConfigError, match="at_worst is said of not_less alone"):
        later.load_later(tmp_path / later.LEDGER)
