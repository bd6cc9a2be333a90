"""Verify by contrasts: drift passes; exchanged arms, turned signs, other words and what is missing do not."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from longalign.common import paths
from longalign.evals.crossed import Spread
from longalign.experiments.profiles import load_profile
from longalign.report import noise
from longalign.report.claim_schema import load_ledger
from longalign.report.claim_scores import Folder
from longalign.report.claims import measure_all
from longalign.report.default_run import trained_by_default
from longalign.reproduction import drift, verify_contrasts
from longalign.reproduction.verify_contrasts import Contrast, contrasts, shared, verdicts

REFERENCE, LEDGER = paths.results(), load_ledger()
UNMEASURED_SHARE = 0.77
"""Drift as a share of the spread between seeds where it was not measured: the largest one that was."""


@pytest.fixture(scope="module", params=["all seeds", "a default run's"])
def reference(request):
    """The committed tables, with all seeds or those of a default run, and what they say of the claims."""
    profile = load_profile("laptop")
    default = request.param != "all seeds"
    folder = Folder(REFERENCE, (lambda rows: trained_by_default(rows, profile)) if default else None)
    return folder, {row["id"]: row for row in measure_all(LEDGER, folder)}


@pytest.fixture(scope="module")
def own(reference):
    """The reference's contrasts against themselves."""
    folder, rows = reference
    found, gaps = contrasts(folder, folder, LEDGER, rows, REFERENCE)
    assert gaps == [] and len(found) >= 50
    return found


def test_the_reference_is_its_own_run(own):
    assert [sentence for one in own for sentence in one.wrong()] == []


def test_honest_runs_that_drift_as_measured_pass(own, capsys):
    rng, spreads = np.random.default_rng(0), noise.read(REFERENCE)
    drifts, claims = drift.read(REFERENCE, spreads), {claim.id: claim for claim in LEDGER}
    passed = 0
    for _ in range(200):
        wrong = []
        for one in own:
            squares = noise.weights(claims[one.claim])
            known = noise.of_contrast(squares, drifts)
            sd = known.sd if known else UNMEASURED_SHARE * noise.of_contrast(squares, spreads).sd
            wrong += dataclasses.replace(one, ours=one.theirs + rng.normal(0, sd / one.seeds**0.5)).wrong()
        passed += not wrong
    with capsys.disabled():
        print(f"\n{passed} of 200 honest runs pass")
    assert passed >= 190


def test_any_sign_that_is_sure_and_turned_is_told(own):
    sure = [one for one in own if one.sign]
    missed = [one.claim for one in sure if not dataclasses.replace(one, ours=-one.theirs).wrong()]
    assert len(sure) >= 15 and missed == []


def test_longalign_and_longalpaca_exchanged_are_told(reference, tmp_path):
    folder, rows = reference
    other = {"LongAlign-10k": "LongAlpaca-12k", "LongAlpaca-12k": "LongAlign-10k"}
    table = folder.table("data_source.csv", ("arm",))
    table.assign(arm=table.arm.map(other)).to_csv(tmp_path / "data_source.csv", index=False)
    found, _ = contrasts(Folder(tmp_path), folder, LEDGER, rows, REFERENCE)
    told = [sentence for one in found for sentence in one.wrong()]
    assert any(sentence.startswith("table-2-chat-over-longalpaca: ") and "±" in sentence for sentence in told)
    assert any(sentence.endswith(": the other sign") for sentence in told)


def test_seeds_that_the_reference_lacks_leave_nothing_to_compare_and_say_so(tmp_path):
    table = pd.read_csv(REFERENCE / "data_source.csv")
    table.assign(seed=table.seed + 100).to_csv(tmp_path / "data_source.csv", index=False)
    rows = {row["id"]: row for row in measure_all(LEDGER, shared(REFERENCE, tmp_path))}
    found, gaps = contrasts(shared(tmp_path, REFERENCE), shared(REFERENCE, tmp_path), LEDGER, rows, REFERENCE)
    assert found == [] and {row["verdict"] for row in rows.values()} <= {"not measured", "cannot be shown here"}
    found, gaps = contrasts(shared(tmp_path, REFERENCE), Folder(REFERENCE), LEDGER, rows, REFERENCE)
    assert found == [] and any("data_source.csv" in gap for gap in gaps) and "there is no methods.csv" in " ".join(gaps)


def test_the_limit_is_the_measured_drift_and_never_more_than_another_seed():
    one = noise.Key("t", "mini-6b", "score", "all", "all", "value")
    spreads, theirs = {one: Spread(1.0, 28)}, np.array([0.0, 1.0])
    another = verify_contrasts.allowed({one: 2.0}, spreads, {}, 0.01, theirs)
    assert another == pytest.approx(2.7633 * 2**0.5 * 2**0.5, rel=1e-4)  # t(0.995, 28)
    assert verify_contrasts.allowed({one: 2.0}, spreads, {one: Spread(0.5, 28)}, 0.01, theirs) < another
    assert verify_contrasts.allowed({one: 2.0}, spreads, {one: Spread(0.5, 1)}, 0.01, theirs) == another
    alone = verify_contrasts.allowed({one: 2.0}, {}, {}, 0.01, theirs)  # t(0.995, 1), SD of 0 and 1, another seed
    assert alone == pytest.approx(63.657 * 0.5**0.5 * 2**0.5, rel=1e-4)


@pytest.mark.parametrize(("ours", "wrong"), [(0.9, 0), (0.55, 1), (-0.1, 2)])
def test_a_contrast_is_held_to_its_limit_and_its_sign(ours, wrong):
    assert len(Contrast("a", ours, 1.0, 3, 0.4, 1).wrong()) == wrong


def words(*pairs):
    theirs = pd.DataFrame([{"id": f"c{n}", "verdict": word, "estimate": 1.0, "seeds": 8}
                           for n, (_, word) in enumerate(pairs)])  # fmt: skip
    ours = [{"id": f"c{n}", "verdict": word, "seeds": 3} for n, (word, _) in enumerate(pairs)]
    cut = {f"c{n}": {"verdict": word} for n, (_, word) in enumerate(pairs)}
    return verdicts(ours, theirs, cut)


def test_other_words_are_listed_and_an_opposite_one_or_too_many_others_are_wrong():
    same = [("reproduced", "reproduced")] * 55
    line, other, wrong = words(*same, ("inconclusive", "reproduced"))
    assert line.startswith("55 of 56 measured claims") and wrong == []
    assert other == ["c55: inconclusive (3 seeds), in the reference reproduced (8)"]
    assert words(*same, ("contradicted", "reproduced"))[2] == [
        "c55: contradicted (3 seeds), in the reference reproduced: the opposite"]  # fmt: skip
    assert words(*same[:50], *[("inconclusive", "reproduced")] * 6)[2] == []
    (few,) = words(*same[:49], *[("inconclusive", "reproduced")] * 7)[2]
    assert few.startswith("49 of 56 measured claims")
