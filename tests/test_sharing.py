"""The measurement on two real ranks: its table says how far a prediction is off, and the page takes it from there."""

import json

import pytest
from benchmarks.sharing import ranks

from longalign.common import provenance
from longalign.report import site_blocks
from longalign.train.prediction import Pace

SENT, FLOPS = 2e9, 3e9
TWICE = ("llama3", "all shared")
"""What takes twice as long as is predicted."""


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """What would be measured on ranks that follow the prediction, but for one way, in two rounds."""
    pace, found = Pace(flops=FLOPS, sent=SENT / 2), []
    for mixture, number in ranks.SMALL.sequences.items():
        store = ranks.stored(tmp_path_factory.mktemp("stores") / mixture, mixture, number)
        for way in ranks.WAYS:
            seconds = ranks.predicted(store, way, pace)["seconds"] * (2 if (mixture, way) == TWICE else 1)
            found += [{"round": number, "mixture": mixture, "way": way, "seconds": seconds, "steps": 1,
                       "tokens": int(sum(store.lengths))} for number in (0, 1)]  # fmt: skip
    return [*found, {"round": 0, "mixture": "", "way": ranks.EXCHANGE, "bytes_per_second": SENT}]


def test_a_prediction_is_off_by_what_was_not_predicted(lines):
    table = ranks.table(lines, ranks.SMALL)
    assert len(table) == len(ranks.MIXTURES) * len(ranks.WAYS)
    for row in table:
        assert row["error"] == pytest.approx(-0.5 if (row["mixture"], row["way"]) == TWICE else 0.0, abs=1e-9)
        assert row["predicted"] == pytest.approx(row["seconds"] * (1 + row["error"])) and row["rounds"] == 2
        assert (row["sending"] > 0) == (row["way"] != ranks.NOT_SHARED)
    sent = {row["way"]: row["sending"] for row in table if row["mixture"] == "llama3"}
    assert sent["all shared"] > 2 * sent["mixed"], "short sequences are not sent"
    over = {row["way"]: row["over_mixed"] for row in table if row["mixture"] == "llama3"}
    assert over["mixed"] == 1 and over["all shared"] > 2


def test_the_page_shows_the_table_once_it_is_there(lines, tmp_path):
    assert "Not measured yet" in site_blocks.sharing(tmp_path)
    (tmp_path / "sharing").mkdir()
    provenance.write_csv(tmp_path / "sharing" / "ranks.csv", ranks.table(lines, ranks.SMALL), columns=ranks.COLUMNS)
    ranks.record(tmp_path / "sharing" / "ranks.json", lines, ranks.SMALL)
    told = site_blocks.sharing(tmp_path)
    rare = next(row["over_mixed"] for row in ranks.table(lines, ranks.SMALL)
                if (row["mixture"], row["way"]) == ("llama3", "all shared"))  # fmt: skip
    assert told.startswith("Where one sequence in 900 is long") and f"took {rare:.2f} times as long as one in" in told
    assert told.count("\n| ") == 1 + 6 and "-50 %" in told and told.count("fitted |") == 2 and "(2.0 GB/s)" in told
    assert "has 56 % of the FLOPs" in told and "Not measured" not in told


def test_attention_has_its_share_of_the_longest_sequence_as_in_llama_2_7b_at_64k():
    from longalign.recipe.cost import LLAMA_2_7B

    shares = [cost.per_pair * n / (cost.per_pair * n + cost.per_token)
              for cost, n in ((ranks.SHAPE.cost, ranks.CONTEXT), (LLAMA_2_7B, 2**16))]  # fmt: skip
    assert shares[0] == pytest.approx(shares[1], abs=0.01)


def test_a_folder_of_other_sizes_is_left_alone(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(ranks.subprocess, "run", lambda *_, **__: started.append(1))
    (tmp_path / "sizes.json").write_text(json.dumps({"rounds": 9}))
    assert ranks.main(tmp_path, small=True) == 2
    assert "other sizes" in capsys.readouterr().err and not started
