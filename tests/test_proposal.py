"""What `longalign plan --propose` offers fits, is predicted by the plan that the job will have, and can be started."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from transformers import BertConfig, FalconConfig, GPT2Config, LlamaConfig, MambaConfig, MistralConfig

from gpu_rows import CARD, add, row
from longalign.cli.main import main
from longalign.data.chat import Encoded
from longalign.data.store import write_store
from longalign.recipe.batching import make_plan
from longalign.train import jobs, proposal
from longalign.train.memory import GIB, SPARE, ModelShape, footprint
from longalign.train.parallelism import Parallelism
from longalign.train.prediction import Pace, exchange_cost, predict
from longalign.train.proposal import notable, offers

LLAMA = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008, "num_attention_heads": 32,
         "vocab_size": 32_000, "max_position_embeddings": 4096}  # fmt: skip
SEVEN = ModelShape(4096, 32, 11008, heads=32, key_value_heads=32, head_size=128, vocab_size=32_000)
LONGEST = 262_144


def lengths():
    random = np.random.default_rng(0)
    return np.concatenate([[LONGEST], random.integers(8192, LONGEST, 9), random.integers(100, 3000, 100)])


@pytest.fixture(scope="module")
def found():
    return offers(lengths(), np.full(110, 99), SEVEN, ranks=8, memory=80)


def test_every_offer_fits_and_holds_the_longest_sequence(found):
    for offer in found:
        engine = offer.engine
        needed = footprint(SEVEN, engine, positions=offer.capacity, targets=99)
        assert needed.device * GIB / 1e9 <= offer.memory <= SPARE * 80
        assert offer.capacity * (1 if engine.share_above is None else engine.sequence_parallel) >= LONGEST
        assert 0 <= offer.idle < 1 and 0 <= offer.sending < 1
    kinds = {(offer.engine.sequence_parallel, offer.engine.share_above is None) for offer in notable(found)}
    assert len(kinds) == len(notable(found)) and {(8, True), (8, False)} <= kinds


def test_the_first_is_about_the_fastest_and_none_of_those_sends_less(found):
    alike = [offer for offer in found if offer.engine.offload == found[0].engine.offload]
    fastest = min(offer.hours for offer in alike)
    assert found[0].hours <= 1.01 * fastest
    assert all(found[0].sending <= offer.sending for offer in alike if offer.hours <= 1.01 * fastest)


def test_less_memory_for_each_device_leaves_fewer_ways_and_none_is_refused_in_a_sentence(found):
    assert len(offers(lengths(), None, SEVEN, ranks=8, memory=48)) < len(found)
    with pytest.raises(ValueError, match="no way fits into 9 of the 10 GB of 8 devices: take more or larger ones"):
        offers(lengths(), None, SEVEN, ranks=8, memory=10)


def test_what_is_sent_is_what_ulysses_sends():
    """4 N h / P numbers a rank and layer: 8 GiB of 2 bytes for 262,144 tokens of 4,096 features, there and back."""
    pace = Pace(flops=1e12, sent=1e9)
    sent = exchange_cost(SEVEN, 8, pace) / pace.flops * pace.sent * LONGEST / SEVEN.layers
    assert sent == pytest.approx(2 * 2 * 4 * LONGEST * 4096)
    grouped = replace(SEVEN, key_value_heads=8)
    assert exchange_cost(grouped, 8, pace) / exchange_cost(SEVEN, 8, pace) == pytest.approx((1 + 1 / 4) / 2)


@pytest.mark.parametrize("shared", [{"share_above": 8192}, {}])
def test_slow_attention_of_shared_sequences_costs_where_they_are_shared(shared):
    engine = Parallelism(ranks=8, zero=1, sequence_parallel=8, **shared)
    plan = make_plan("packing", [65_536, *[1000] * 64], capacity=65_536 // (8 if shared else 1), ranks=engine.batches,
                     accumulation=8 if shared else 2, **engine.mixed)  # fmt: skip
    attention = SEVEN.cost.per_pair * (65_536**2 + (0 if shared else 64 * 1000**2)) / 8
    pace = Pace(flops=1e15, attention=1e15, shared_attention={8: 1e15})
    fast, slow = (predict([plan], SEVEN, engine, one).hours * 3600
                  for one in (pace, replace(pace, shared_attention={8: 5e14})))  # fmt: skip
    assert slow - fast == pytest.approx(attention / 1e15, rel=1e-6)


def test_with_checkpointing_the_forward_pass_and_what_it_sends_are_done_twice():
    engine = Parallelism(ranks=8, zero=1, sequence_parallel=8)
    plan = make_plan("packing", [65_536], capacity=65_536)
    once, again = (predict([plan], SEVEN, replace(engine, gradient_checkpointing=on), Pace()) for on in (False, True))
    assert again.hours * again.sending / (once.hours * once.sending) == pytest.approx(3 / 2)
    assert again.hours * (1 - again.sending) / (once.hours * (1 - once.sending)) == pytest.approx(4 / 3)


def test_rates_that_were_measured_on_a_card_are_taken_and_named(tmp_path, model, capsys):
    rates = {"layers": 500.0, "local": 400.0, "shared by 2": 390.0, "shared by 8": 350.0}
    rows = [row("sharing", "some", name, "rate, forward + backward", rate, "TFLOP/s") for name, rate in rates.items()]
    (tmp_path / "lengths.txt").write_text("\n".join(map(str, lengths())))
    asked = ["plan", str(tmp_path / "lengths.txt"), "--propose", str(model), "--ranks", "8"]
    main([*asked, "--card", str(add(tmp_path / "card", "sharing", rows))])
    told = capsys.readouterr().out
    assert f"measured on {CARD}, 2026-11-28: layers 500 TFLOP/s, attention 400 (390 shared by 2, 350" in told
    assert "Nothing was measured" not in told and "--card takes your own" in told
    pace = Pace(flops=5e14, attention=4e14, shared_attention={2: 3.9e14, 8: 3.5e14})
    best = offers(lengths(), None, SEVEN, ranks=8, memory=80, pace=pace)[0]
    assert f"{best.hours:.3g}" in next(line for line in told.splitlines() if line.startswith("->"))
    with pytest.raises(SystemExit):
        main([*asked, "--card", str(add(tmp_path / "other", "sharing", rows[:2]))])
    assert "has no numbers of stage g: run" in capsys.readouterr().err


def test_hours_and_steps_are_those_of_all_sequences_where_a_part_is_planned(monkeypatch):
    some = np.random.default_rng(0).integers(2000, 60_000, 240)
    whole = offers(some, None, SEVEN, ranks=8, memory=80)[0]
    monkeypatch.setattr(proposal, "PLANNED", 60)
    part = offers(some, None, SEVEN, ranks=8, memory=80)
    assert part[0].hours == pytest.approx(whole.hours, rel=0.03)
    assert abs(part[0].steps - whole.steps) <= 4, "the last step of a part may be as little full as that of all"
    assert "Planned for 60 of the sequences" in proposal.as_text(part, Pace(), some)
    assert "Planned for" not in (told := proposal.as_text(part, Pace(), some[:60]))
    assert "few steps" not in told
    few = proposal.as_text([replace(part[0], steps=proposal.FEW - 1)], Pace(), some)
    assert "An epoch has few steps, of about 524,288 tokens each as in the paper: lower" in few


def test_a_window_that_is_counted_as_full_attention_is_told(tmp_path, capsys):
    MistralConfig(**LLAMA, sliding_window=4096).save_pretrained(tmp_path)
    (tmp_path / "lengths").write_text("4097\n")
    main(["plan", str(tmp_path / "lengths"), "--propose", str(tmp_path), "--ranks", "8"])
    assert "reaches 4,096 tokens back are counted as if it reached 4,097: hours may be" in capsys.readouterr().err


@pytest.fixture
def model(tmp_path):
    LlamaConfig(**LLAMA).save_pretrained(tmp_path / "llama")
    (tmp_path / "llama" / "model.safetensors").touch()  # a dry run of so large a model reads no weight
    return tmp_path / "llama"


def test_the_proposal_for_256k_contexts_of_a_7b_on_8_devices_is_a_job_that_a_dry_run_takes(
    tmp_path, model, capsys, monkeypatch
):
    monkeypatch.setattr(jobs, "free_memory", lambda: 0)
    rows = (Encoded(np.ones(n, np.int32), np.where(np.arange(n) < n - 99, -100, 1).astype(np.int32), 0)
            for n in lengths())  # fmt: skip
    store = write_store(tmp_path / "store", rows, meta={})
    job, options = tmp_path / "job.yaml", ["--propose", str(model), "--ranks", "8", "--memory", "80"]
    main(["plan", str(tmp_path / "store"), *options, "--out", str(job)])
    told = capsys.readouterr().out
    assert "from FLOPs" in told and "Nothing was measured" in told and told.count("->") == 1
    made = jobs.load_job(job)
    assert (made.rope_type, made.max_length, made.engine.world_size) == ("yarn", LONGEST, 8)
    best = offers(store.lengths, store.target_counts, SEVEN, ranks=8, memory=80)[0]
    assert (made.engine, made.training.capacity) == (best.engine, best.capacity)
    plans = made.plans(store)
    assert jobs.estimated(made, store, plans).device * GIB / 1e9 <= best.memory + 1e-9
    # the job's own plan takes about what was predicted: it is balanced without what is sent
    assert predict(plans, SEVEN, made.engine, Pace()).hours == pytest.approx(best.hours, rel=0.02)
    assert jobs.main([str(job), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert '"share_above"' in said and "memory of a device: about" in said and "the model itself" in said
    hours, sending = re.search(r"about (\S+) hours on 8 .* send (\d+)%", said).groups()
    assert float(hours) == pytest.approx(best.hours, rel=0.07) and int(sending) == round(100 * best.sending)


def test_it_is_told_as_json_too(tmp_path, model, capsys):
    (tmp_path / "lengths.txt").write_text("\n".join(map(str, lengths())))
    main(["plan", str(tmp_path / "lengths.txt"), "--propose", str(model), "--ranks", "8", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told[0]["engine"]["ranks"] == 8
    assert {"capacity", "steps", "hours", "idle", "sending", "bound"} <= set(told[0])


def test_a_job_that_is_there_is_not_written_over(tmp_path, model, capsys):
    (job := tmp_path / "job.yaml").write_text("mine")
    (tmp_path / "lengths.txt").write_text("2\n4\n3\n")
    with pytest.raises(SystemExit):
        main(["plan", str(tmp_path / "lengths.txt"), "--propose", str(model), "--out", str(job)])
    assert "exists already: name another file" in capsys.readouterr().err and job.read_text() == "mine"


@pytest.mark.parametrize(("config", "told"), [
    (MambaConfig(num_hidden_layers=1), "MambaMixer is a recurrence"),
    (BertConfig(num_hidden_layers=1), "sees the tokens that it is to predict"),
    (FalconConfig(num_hidden_layers=1), "its attention is code of its own"),
], ids=["a recurrence", "both ways", "attention of its own"])  # fmt: skip
def test_a_model_that_packs_cannot_train_is_refused_before_anything_is_proposed(config, told, tmp_path, capsys):
    config.save_pretrained(tmp_path / "model")
    (tmp_path / "lengths.txt").write_text("2\n4\n3\n")
    with pytest.raises(SystemExit) as left:
        main(["plan", str(tmp_path / "lengths.txt"), "--propose", str(tmp_path / "model"), "--ranks", "8"])
    assert left.value.code == 2 and told in capsys.readouterr().err


def test_a_proposal_of_one_step_is_a_job_that_trains(tmp_path, model):
    """Whose first learning rate is that of the step, and no warm-up's."""
    rows = [Encoded(np.ones(n, np.int32), np.ones(n, np.int32), 0) for n in (2, 4, 3)]
    store = write_store(tmp_path / "store", rows, meta={})
    asked = ["plan", str(tmp_path / "store"), "--propose", str(model), "--memory", "800", "--out"]
    main([*asked, str(tmp_path / "job.yaml")])
    made = jobs.load_job(tmp_path / "job.yaml")
    assert [len(plan.steps) for plan in made.plans(store)] == [1] and made.training.warmup_ratio == 0


SCALED = {"rope_type": "linear", "rope_theta": 1e4, "factor": 8.0}


@pytest.mark.parametrize(("config", "told"), [
    (LlamaConfig(**{**LLAMA, "max_position_embeddings": 8}, rope_parameters=SCALED), "RoPE is scaled already (linear)"),
    (GPT2Config(n_layer=1, n_positions=8), "only models with RoPE can be extended"),
], ids=["scaled", "a table"])  # fmt: skip
def test_a_job_that_would_be_refused_is_not_written(config, told, tmp_path, capsys):
    config.save_pretrained(tmp_path / "model")
    rows = [Encoded(np.ones(n, np.int32), np.ones(n, np.int32), 0) for n in (2, 4, 9)]
    write_store(tmp_path / "store", rows, meta={})
    asked = ["plan", str(tmp_path / "store"), "--propose", str(tmp_path / "model"), "--ranks", "1", "--memory", "800"]
    with pytest.raises(SystemExit):
        main([*asked, "--out", str(tmp_path / "job.yaml")])
    error = capsys.readouterr().err
    assert "the longest sequence has 9 tokens, the model 8 positions" in error and told in error
    assert "tokenize with --max-length 8" in error and not (tmp_path / "job.yaml").exists()
    main(asked)
    said = capsys.readouterr()
    assert "->" in said.out and told in said.err


def test_a_job_is_written_for_a_token_store_alone(tmp_path, model, capsys):
    (tmp_path / "lengths.txt").write_text("2\n4\n3\n")
    with pytest.raises(SystemExit):
        main(["plan", str(tmp_path / "lengths.txt"), "--propose", str(model), "--out", str(tmp_path / "job.yaml")])
    assert "lengths.txt is none: make one with longalign data tokenize" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--propose", "nowhere"], "--propose is nowhere, where there is no folder"),
        (["--propose", "nowhere", "--capacity", "9"], "--capacity is what --propose looks for: leave it out"),
        (["--capacity", "9", "--memory", "80"], "--memory works only with --propose"),
        (["--capacity", "9", "--share-above", "5"], "share_above and degree belong together"),
    ],
)
def test_options_that_do_not_belong_together_are_refused_in_a_line(tmp_path, capsys, options, told):
    (tmp_path / "lengths.txt").write_text("2\n4\n3\n")
    with pytest.raises(SystemExit):
        main(["plan", str(tmp_path / "lengths.txt"), *options])
    assert told in (error := capsys.readouterr().err) and error.count("\n") == 1
