"""LoRA: what is trained, that it begins at the model itself, and what is saved of it, held to PEFT's own merging."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from longalign.common import paths
from longalign.data.tokenize_files import tokenize_jsonl
from longalign.miniature import tokenizer
from longalign.recipe.attention import register_attention
from longalign.train import frozen_head, jobs, lora, preflight
from longalign.train.events import read_events
from longalign.train.models import load_model, new_model
from longalign.train.runs import Run
from longalign.train.trainer import TrainingConfig, train
from longalign.train.workers import execute_all
from test_trainer import fresh_model, make_store

IDS_OF_A_MODEL = {"vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
DECODER = {**IDS_OF_A_MODEL, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
           "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}  # fmt: skip
CONFIG = TrainingConfig(capacity=24, micro_batches_per_step=3, epochs=2, steps=4, learning_rate=1e-2, lora_rank=4)
IDS = torch.arange(2, 26)[None]


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_before_training_it_is_the_model_itself_and_only_the_two_matrices_are_to_be_trained():
    plain, adapted = fresh_model(), fresh_model()
    lora.adapt(adapted, 4, seed=0)
    assert torch.equal(logits(plain), logits(adapted))
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all(".lora_A." in name or ".lora_B." in name for name in trained)
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_an_end_that_a_model_has_never_seen_and_lora_does_not_learn_is_told(tmp_path, capsys):
    """The committed bases have read documents alone, without the tokens of a chat."""
    def base():
        return load_model(paths.bases() / "mini-6b")

    chats = [{"input_ids": [2, 300 + n, 3, 400, 1], "labels": [-100, -100, -100, 400, 1]} for n in range(20)]
    texts = [{"input_ids": [400, 500 + n % 2], "labels": [400, 500 + n % 2]} for n in range(20)]
    theirs = get_peft_model(base(), LoraConfig(r=4, target_modules="all-linear"))
    for model in (theirs, adapted := base()):
        if model is adapted:
            lora.adapt(adapted, 4, seed=0)
        (told,) = frozen_head.notes(model, chats)
        assert told.startswith("answers end with token 1, whose row") and "train all weights" in told
        assert frozen_head.notes(model, texts) == []  # end with words, which it has read
    assert frozen_head.notes(base(), chats) == []  # all weights are trained
    for more in ({"target_modules": ["lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}):
        learns = get_peft_model(base(), LoraConfig(r=4, **more))
        assert frozen_head.notes(learns, chats) == []
    assert preflight.preflight(theirs, sequences=chats) == frozen_head.notes(theirs, chats)


def test_a_training_tells_it_before_its_first_step(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(frozen_head, "SHARE", 0)  # the random sequences of this store all end otherwise
    model, one_step = fresh_model(), replace(CONFIG, steps=1)
    model.get_output_embeddings().weight.data[:] = 1.0
    train(model, store, one_step, tmp_path / "work")
    assert "answers end with token" in capsys.readouterr().out
    train(fresh_model(), store, one_step, tmp_path / "other")
    assert "answers end" not in capsys.readouterr().out


def test_the_command_tells_it_on_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Marlow leads."}]
    (tmp_path / "a.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 20)
    tokenize_jsonl(tmp_path / "a.jsonl", tokenizer.load(), tmp_path / "store", progress=lambda *_: None)
    settings = "training: {capacity: 128, micro_batches_per_step: 1, steps: 1, warmup_ratio: 0, lora_rank: "
    for rank, times in ((2, 1), (0, 0)):
        (tmp_path / "job.yaml").write_text(f"model: {paths.bases() / 'mini-6b'}\ndata: store\n{settings}{rank}}}\n")
        for options in (["--dry-run"], []):
            assert jobs.main(["job.yaml", "--out", "trained", *options]) == 0
            told = capsys.readouterr()
            assert (told.out + told.err).count("answers end with token 1, whose row") == times


def test_what_is_merged_is_what_peft_merges():
    ours, theirs = fresh_model(), fresh_model()
    lora.adapt(ours, 4, seed=0)
    theirs = get_peft_model(theirs, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    random = torch.Generator().manual_seed(0)
    matrices = {name: torch.randn(p.shape, generator=random) for name, p in ours.named_parameters() if p.requires_grad}
    ours.load_state_dict(matrices, strict=False)
    theirs.base_model.model.load_state_dict(matrices, strict=False)
    assert torch.equal(logits(ours), logits(theirs))
    merged, expected = lora.merged(ours.state_dict()), theirs.merge_and_unload().state_dict()
    assert sorted(merged) == sorted(expected)
    assert all(torch.allclose(merged[name], expected[name], atol=1e-6) for name in expected)
    plain = fresh_model().state_dict()
    assert not torch.allclose(merged["model.layers.0.mlp.up_proj.weight"], plain["model.layers.0.mlp.up_proj.weight"])


def test_training_changes_nothing_but_the_update_and_both_forms_of_it_compute_what_was_trained(store, tmp_path):
    begun, model = fresh_model(), fresh_model()
    trainer = train(model, store, CONFIG, tmp_path / "work")
    folder = trainer.write_model(tmp_path / "model")
    merged, frozen = load_model(folder), dict(begun.named_parameters())
    assert (logits(merged) - logits(begun)).abs().max() > 1e-2, "it has learned something"
    assert torch.allclose(logits(merged), logits(model), atol=1e-4)
    begun.save_pretrained(tmp_path / "begun")
    adapter = PeftModel.from_pretrained(load_model(tmp_path / "begun"), folder / "adapter")
    assert torch.allclose(logits(adapter), logits(model), atol=1e-5)
    for name, p in merged.named_parameters():
        update = (p - frozen[name]).detach()
        rank = torch.linalg.matrix_rank(update, atol=1e-5) if "proj" in name else 0
        assert (0 < rank <= 4) if "proj" in name else not update.any(), name
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["r"] == 4
    assert len(load_file(folder / "adapter" / "adapter_model.safetensors")) == 2 * 7 * 3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_of_lora_is_one_of_its_own_and_goes_on_from_its_checkpoint(store, tmp_path, monkeypatch, checkpointing):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    new_model("mini-6b", vocab_size=40, max_length=24, seed=0).save_pretrained(tmp_path / "start")
    engine = {"gradient_checkpointing": True} if checkpointing else {}
    training = {"capacity": 24, "micro_batches_per_step": 3, "steps": 4, "epochs": 2, "learning_rate": 1e-2,
                "lora_rank": 4, "checkpoint_every": 2}  # fmt: skip
    run = Run("LoRA", str(store.folder), training, start=str(tmp_path / "start"), engine=engine)
    assert run.key != replace(run, training=training | {"lora_rank": 0}).key
    whole = train(fresh_model(), store, replace(CONFIG, checkpoint_every=2), tmp_path / "whole")
    train(fresh_model(), store, replace(CONFIG, checkpoint_every=2), run.folder / "work")
    (run.folder / "work" / "checkpoint-4").rename(tmp_path / "gone")
    execute_all([run], workers=1)
    events = [read_events(folder / "events.jsonl") for folder in (tmp_path / "whole", run.folder)]
    assert [e["loss"] for e in events[0]] == pytest.approx([e["loss"] for e in events[1]], rel=1e-6)
    assert torch.allclose(logits(load_model(run.model)), logits(whole.model), atol=1e-4)
    assert {"model/adapter/adapter_model.safetensors", "model/model.safetensors"} <= {*run.record()["files"]}
    assert np.isfinite(events[1][-1]["grad_norm"]) and events[1][-1]["grad_norm"] > 0


EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
KINDS = {
    "qwen3_moe": {**DECODER, **EXPERTS, "head_dim": 8},
    "qwen2_moe": {**DECODER, **EXPERTS, "shared_expert_intermediate_size": 16},
    "mixtral": {**DECODER, **EXPERTS, "sliding_window": None},
    "gpt2": {**IDS_OF_A_MODEL, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
}


@pytest.mark.parametrize("kind", KINDS)
def test_of_experts_and_transposed_layers_too_both_forms_compute_what_was_trained(store, tmp_path, kind):
    """Fused experts stay out; GPT-2's weights are [in, out], of which the attention's output projection is square."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **KINDS[kind])
    begun = AutoModelForCausalLM.from_config(config, attn_implementation=register_attention())
    begun.save_pretrained(tmp_path / "begun")
    trainer = train(begun, store, replace(CONFIG, learning_rate=0.05), tmp_path / "work")
    trained = logits(trainer.model.eval())
    folder = trainer.write_model(tmp_path / "model")
    assert (trained - logits(load_model(tmp_path / "begun").eval())).abs().max() > 1e-2, "it has learned something"
    assert torch.allclose(logits(load_model(folder).eval()), trained, atol=1e-4)
    adapter = PeftModel.from_pretrained(load_model(tmp_path / "begun"), folder / "adapter").eval()
    assert torch.allclose(logits(adapter), trained, atol=1e-5)
    assert not any(".experts." in name for name, _ in adapter.named_parameters() if "lora_" in name)


def test_a_layer_that_peft_refuses_in_mamba_blocks_stays_as_it_is():
    """The rest of a hybrid is adapted, and the adapted model is proved as any other."""
    sizes = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64, "mamba_d_state": 8, "mamba_chunk_size": 8}
    hybrid = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("falcon_h1", **DECODER, **sizes), attn_implementation=register_attention()
    )
    lora.adapt(hybrid, 4, seed=0)
    adapted = {name.rpartition(".lora_A")[0].rpartition(".")[2] for name in hybrid.state_dict() if ".lora_A" in name}
    assert {"in_proj", "q_proj", "o_proj", "down_proj"} <= adapted and "out_proj" not in adapted
    assert preflight.preflight(hybrid, method="naive") == []


def test_an_adapter_is_kept_by_whole_names_where_other_modules_share_the_last_part():
    layers, others = ["a.0.q", "a.1.q"], ["a.0.q", "a.1.q", "head"]
    assert sorted(lora._short(layers, others)) == ["q"]
    assert sorted(lora._short(layers, [*others, "vision.q"])) == layers


def test_a_gate_of_three_dimensions_is_no_fused_expert():
    """As of RecurrentGemma, whose feed-forward layers are adapted as those of any model without experts."""
    config = AutoConfig.for_model("recurrent_gemma", **DECODER, block_types=["recurrent", "attention"], lru_width=32)
    model = AutoModelForCausalLM.from_config(config)
    assert any(parameter.dim() == 3 for name, parameter in model.named_parameters() if "gate_weight" in name)
    lora.adapt(model, 2, seed=0)
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    assert {f"model.layers.{number}.mlp_block.{layer}_proj" for number in range(2)
            for layer in ("gate", "up", "down")} < adapted  # fmt: skip
