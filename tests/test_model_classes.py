"""Classes that take no attention from elsewhere, drop what a pack needs, or are the user's own: exact, or refused."""

import pytest
import torch
from benchmarks.models import matrix, small
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from longalign.recipe.attention import register_attention
from longalign.recipe.collators import PackedCollator
from longalign.recipe.loss import weighted_loss
from longalign.train.models import load_model
from test_architectures import batch_of


def test_a_class_that_takes_no_attention_is_refused_whoever_built_it():
    settings = {"vocab_size": 64, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}
    config = AutoConfig.for_model("mpt", **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=register_attention())
    for packed in (True, False):
        with pytest.raises(ValueError, match="MptForCausalLM cannot be trained here: its attention is code of its own"):
            weighted_loss(model, batch_of(9, 4, packed=packed))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    both = weighted_loss(model, batch_of(9, 4, packed=False))
    torch.testing.assert_close(both, sum(weighted_loss(model, batch_of(n, packed=False)) for n in (9, 4)))


def test_a_class_of_the_users_own_is_that_of_transformers():
    class Mine(LlamaForCausalLM):
        pass

    model = Mine(small.build("llama").config)
    model.set_attn_implementation(register_attention())
    weighted_loss(model, batch_of(9, 4, packed=True))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_class_that_drops_the_offsets_is_exact_by_its_positions_or_refused_for_a_pack_alone(checkpointing):
    class Mine(LlamaForCausalLM):
        handed_on = ("attention_mask", "position_ids", "use_cache")

        def forward(self, input_ids=None, **given):
            handed_on = {name: given[name] for name in self.handed_on if name in given}
            return super().forward(input_ids=input_ids, **handed_on)

    model = Mine(small.build("llama").config)
    model.set_attn_implementation(register_attention())
    model.train(checkpointing)
    if checkpointing:  # whose second pass is made outside of the loss
        model.gradient_checkpointing_enable({"use_reentrant": False})
    outcomes = []
    for batches in ([batch_of(9, 4, packed=True)], [batch_of(9, packed=True), batch_of(4, packed=True)]):
        model.zero_grad()
        loss = sum(weighted_loss(model, batch) for batch in batches)
        loss.backward()
        outcomes.append((loss.item(), model.model.embed_tokens.weight.grad.clone()))
    assert outcomes[0][0] == pytest.approx(outcomes[1][0], rel=1e-6)
    assert torch.allclose(outcomes[0][1], outcomes[1][1], atol=1e-6)
    Mine.handed_on = ("attention_mask", "use_cache")
    with pytest.raises(ValueError, match="LlamaAttention was not given the cu_seqlens of the pack, so sequences would"):
        weighted_loss(model, batch_of(9, 4, packed=True))
    for packed, lengths in ((False, (9, 4)), (True, (9,))):
        assert weighted_loss(model, batch_of(*lengths, packed=packed)).isfinite()


def test_a_folder_whose_class_takes_no_attention_is_refused_when_it_is_loaded(tmp_path):
    small.build("falcon").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="FalconForCausalLM cannot be trained here: its attention is code of its own"):
        load_model(tmp_path)


def test_without_our_loader_its_key_error_says_what_it_means(tmp_path):
    small.build("falcon").save_pretrained(tmp_path)
    with pytest.raises(KeyError, match="'longalign': this class of transformers has attention code of its own"):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=register_attention())
    assert register_attention() == "longalign" and f"{register_attention()}" == "longalign"


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "with an adapter"])
def test_a_pack_is_refused_without_our_attention_since_that_of_transformers_leaks_in_some_classes(wrapped):
    """GPT-OSS does, and nothing else would say so."""
    model, features = small.build("gpt_oss"), [{**item, "loss_weight": 1.0} for item in matrix.sequences()[:2]]
    if wrapped:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    batch = PackedCollator(0)(features)
    with pytest.raises(ValueError, match=r"attention 'eager' may not see where one ends; load it with attn_impl"):
        weighted_loss(model, batch)
    assert weighted_loss(model, PackedCollator(0)(features[:1])).isfinite(), "one sequence has no other to see"

    inputs = {name: value for name, value in batch.items() if name not in ("labels", "loss_weights")}
    apart = model(**inputs).logits[0, -1] - model(torch.tensor([features[1]["input_ids"]])).logits[0, -1]
    assert apart.abs().max() > 1e-3, "it leaks"
