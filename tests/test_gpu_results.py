"""What was measured on GPUs: read as the program adds to its files; files that do not fit together are refused."""

import pytest

from gpu_rows import CARD, add, row
from longalign.report.gpu_results import RECORDS, TABLE, read_cards, stages


def product(value, **options):
    return row("ceilings", "8192", "bf16 product", "rate", value, "TFLOP/s", **options)


def test_there_are_no_cards_where_nothing_is_committed(tmp_path):
    assert read_cards(tmp_path / "gpu") == []
    (tmp_path / "gpu").mkdir()
    assert read_cards(tmp_path / "gpu") == []


def test_a_card_has_its_name_its_day_and_its_rows(tmp_path):
    add(tmp_path / "h100", "ceilings", [product(700.0), row("ceilings", "4 GiB", "copy", "rate", 3.0, "TB/s")])
    (card,) = read_cards(tmp_path)
    assert (card.name, card.date, card.torch) == (CARD, "2026-11-28", "2.11.0+cu130")
    assert card.of("ceilings").value.tolist() == [700.0, 3.0]
    assert card.of("ceilings", unit="TB/s").system.tolist() == ["copy"] and card.of("kernels").empty


def test_what_is_measured_again_counts_as_it_was_measured_last(tmp_path):
    add(tmp_path / "h100", "ceilings", [product(700.0)])
    add(tmp_path / "h100", "ceilings", [product(750.0)], clock="2026-11-29T10:00:00Z")
    (card,) = read_cards(tmp_path)
    assert card.of("ceilings").value.tolist() == [750.0] and card.date == "2026-11-29"


def test_a_number_by_two_backends_of_one_run_stands_twice_and_an_earlier_backend_does_not_stay(tmp_path):
    for backends in (("sequences",), ("varlen_attn", "longalign.recipe.cost")):
        rows = [row("figure5", "8 ranks", "packing", "naive / this", 2.0, "ratio", backend=name) for name in backends]
        add(tmp_path / "h100", "figure5", rows)
    (card,) = read_cards(tmp_path)
    assert card.of("figure5").backend.tolist() == ["varlen_attn", "longalign.recipe.cost"]


def test_a_failure_that_was_mended_is_counted_and_one_that_was_not_is_shown(tmp_path):
    add(tmp_path / "h100", "ceilings", [row("ceilings", "", "", "", status="failed", note="no memory")])
    add(tmp_path / "h100", "kernels", [row("kernels", "64k", "dense", "time", status="failed", note="no memory")])
    add(tmp_path / "h100", "ceilings", [product(750.0)])
    (card,) = read_cards(tmp_path)
    assert card.failed.stage.tolist() == ["kernels"] and card.repeated == 1
    assert card.of("ceilings").value.tolist() == [750.0] and card.of("kernels").empty


def test_seeds_of_two_runs_stand_side_by_side(tmp_path):
    for seed in (0, 1):
        add(tmp_path / "h100", "learning", [row("learning", f"64k, seed {seed}", "none", "exact_match", 0.1 * seed)])
    (card,) = read_cards(tmp_path)
    assert card.of("learning").case.tolist() == ["64k, seed 0", "64k, seed 1"]


def test_the_rehearsal_and_tiny_sizes_are_no_numbers_of_a_card(tmp_path):
    add(tmp_path / "h100", "rehearsal", [row("rehearsal", "ceilings: 256", "copy", "rate", 0.1)])
    add(tmp_path / "h100", "ceilings", [product(1.0)], tiny=True)
    assert read_cards(tmp_path) == []
    add(tmp_path / "h100", "ceilings", [product(700.0)])
    (card,) = read_cards(tmp_path)
    assert card.rows.value.tolist() == [700.0]


def test_rows_of_a_stage_that_was_stopped_before_its_record_are_left_out(tmp_path):
    add(tmp_path / "h100", "ceilings", [product(700.0)])
    whole = (tmp_path / "h100" / RECORDS).read_text()
    add(tmp_path / "h100", "kernels", [row("kernels", "8k", "ours", "time", 1.0, "ms")])
    (tmp_path / "h100" / RECORDS).write_text(whole)
    (card,) = read_cards(tmp_path)
    assert set(card.rows.stage) == {"ceilings"}


def test_a_stage_whose_process_died_is_a_failed_row_and_leaves_the_card_its_name(tmp_path):
    add(tmp_path / "h100", "ceilings", [product(700.0)])
    died = row("figure5", "", "", "", status="failed", note="its process ended by itself, with status -9")
    add(tmp_path / "h100", "figure5", [died])
    path = tmp_path / "h100" / RECORDS
    first = path.read_text().splitlines()[0]
    path.write_text(first + '\n{"stage": "figure5", "rows": 1, "failed": 1, "stopped": "status -9"}\n')
    (card,) = read_cards(tmp_path)
    assert (card.name, card.date, card.failed.stage.tolist()) == (CARD, "2026-11-28", ["figure5"])
    assert stages(card).stopped.tolist() == ["", "status -9"]
    path.write_text(path.read_text().replace(first, '{"stage": "ceilings", "rows": 1, "failed": 0}'))
    (card,) = read_cards(tmp_path)
    assert (card.name, card.date) == ("h100", "no date"), "where every process died"


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: (folder / TABLE).write_bytes(b"\xff\xfe"), "gpu.csv cannot be read"),
        (lambda folder: (folder / TABLE).write_text("stage,case\na,b\n"), "gpu.csv must have the columns stage, case"),
        (lambda folder: (folder / RECORDS).unlink(), "gpu.jsonl cannot be read"),
        (lambda folder: (folder / RECORDS).write_text("{"), "gpu.jsonl cannot be read"),
        (lambda folder: (folder / RECORDS).write_text('{"stage": "exact"}\n'), "line 1: a record has failed, rows"),
        (lambda folder: add(folder, "kernels", [product(1.0)]), "rows 2 to 2 must be those of stage kernels"),
        (lambda folder: add(folder, "ceilings", [product(1.0)], note_rows=3), "rows 2 to 4 must be those of stage"),
    ],
    ids=["no table", "other columns", "no records", "broken records", "a bare record", "other stage", "rows lacking"],
)
def test_files_that_cannot_be_read_or_do_not_belong_together_are_refused_by_name(tmp_path, break_it, told):
    folder = add(tmp_path / "h100", "ceilings", [product(700.0)])
    break_it(folder)
    with pytest.raises(ValueError, match="h100/gpu") as error:
        read_cards(tmp_path)
    assert told in str(error.value) and "\n" not in str(error.value)
