"""Models that read images, too, and mixtures of experts: text trains its part on every engine, and no more changes."""

import os

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from longalign.train import jobs, language_part, lora, models, needs
from test_trainer import make_store

TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8,
        "num_key_value_heads": 1, "vocab_size": 40, "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": None}  # fmt: skip
SEES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 7}
WHOLE = {
    "gemma3": {"text_config": TEXT, "vision_config": {**SEES, "image_size": 14}, "mm_tokens_per_image": 1,
               "image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7},
    "gemma4": {"text_config": {**TEXT, "layer_types": ["full_attention"] * 2, "hidden_size_per_layer_input": 0,
                               "num_kv_shared_layers": 0, "global_head_dim": 8},
               "vision_config": SEES, "audio_config": None, "image_token_id": 5, "video_token_id": 6,
               "audio_token_id": 7, "boi_token_id": 8, "eoi_token_id": 9},
    "llava": {"text_config": {**TEXT, "model_type": "llama"}, "image_token_index": 5,
              "vision_config": {**SEES, "image_size": 14, "model_type": "clip_vision_model"}},
    "mllama": {"text_config": {**TEXT, "bos_token_id": 2, "cross_attention_layers": [1]}, "image_token_index": 5,
               "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_global_layers": 1, "image_size": 14,
                                 "attention_heads": 2, "intermediate_size": 12, "patch_size": 7, "max_num_tiles": 1,
                                 "vision_output_dim": 16, "intermediate_layers_indices": [0],
                                 "supported_aspect_ratios": [[1, 1]]}},
    "qwen3_5": {"text_config": {**TEXT, "layer_types": ["full_attention"] * 2}, "image_token_id": 5,
                "vision_config": {"hidden_size": 8, "intermediate_size": 12, "depth": 1, "num_heads": 2,
                                  "out_hidden_size": 16, "num_position_embeddings": 4}},
}  # fmt: skip


def save(kind, folder):
    """A small model of random weights, as it would be published."""
    torch.manual_seed(0)
    if kind in WHOLE:
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **WHOLE[kind]))
    else:
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TEXT, **experts))
    model.save_pretrained(folder / kind)
    return str(folder / kind)


def test_what_text_does_not_use_is_not_trained(tmp_path):
    model = models.load_model(save("gemma3", tmp_path))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if "vision" in name or "projector" in name}
    model(torch.tensor([[2, 3, 4]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    (told,) = language_part.notes(model.config, model)
    left = sum(parameter.numel() for parameter in language_part.others(model))
    assert f"reads more than text: the {left:,} weights that text does not use are not trained, and are" in told
    lora.adapt(model, 2, seed=0)
    adapted = {name.split(".")[1] for name, _ in model.named_parameters() if ".lora_A." in name}
    assert adapted == {"language_model"}
    shape = needs.model_shape(tmp_path / "gemma3")
    assert shape.trained == shape.parameters - left and shape.weights < shape.trained


def test_a_part_that_is_saved_alone_is_told(tmp_path):
    folder = save("qwen3_5", tmp_path)
    model = models.outline(folder)
    (told,) = language_part.notes(AutoConfig.from_pretrained(folder), model)
    assert told.startswith("Qwen3_5ForCausalLM, the language part of a Qwen3_5ForConditionalGeneration, is trained and")
    assert not list(language_part.notes(model.config, model))


def test_a_part_that_could_not_be_loaded_once_it_is_saved_alone_is_refused(tmp_path):
    folder = save("mllama", tmp_path)
    with pytest.raises(ValueError, match="part of a MllamaForConditionalGeneration, would be saved alone, and AutoMo"):
        list(language_part.notes(AutoConfig.from_pretrained(folder), models.outline(folder)))
    saved = models.load_model(folder)
    saved.save_pretrained(tmp_path / "alone")
    with pytest.raises(ValueError, match="its class is none of a language model"):
        models.outline(tmp_path / "alone")


def test_a_model_that_transformers_loads_with_images_alone_is_refused_in_a_sentence(tmp_path):
    folder = save("llava", tmp_path)
    for load in (models.load_model, models.outline):
        with pytest.raises(ValueError, match=r"llava: its class is none of a language model .*CausalLM has$"):
            load(folder)


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["gemma3", "mixtral"])
def test_two_ranks_of_zero_3_save_what_one_process_does_under_the_same_names(tmp_path, kind):
    make_store(tmp_path / "store")
    training = {"capacity": 24, "micro_batches_per_step": 2, "weight_decay": 0.5, "learning_rate": 0.01, "steps": 3}
    job = {"model": save(kind, tmp_path), "data": str(tmp_path / "store"), "training": training}
    saved = []
    for name, engine in (("alone", {}), ("dealt", {"zero": 3, "ranks": 2})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**job, "engine": engine}))
        assert jobs.main([str(tmp_path / f"{name}.yaml"), "--out", str(tmp_path / name)]) == 0
        (file,) = (tmp_path / name / "trained").glob("*/model/model.safetensors")
        saved.append(load_file(file))
    alone, dealt = saved
    before = load_file(os.path.join(job["model"], "model.safetensors"))
    assert alone.keys() == dealt.keys() == before.keys()
    for name, value in alone.items():
        assert torch.allclose(value, dealt[name], atol=2e-5), name
        assert torch.equal(value, before[name]) == ("vision" in name or "projector" in name), name


def test_lora_adapts_the_feed_forward_layers_beside_a_table_of_three_dimensions_that_text_does_not_use(tmp_path):
    """As of Gemma 4's positions of images, which are no fused experts; the adapter is of the language part alone."""
    model = models.load_model(save("gemma4", tmp_path))
    assert any(parameter.dim() == 3 for parameter in language_part.others(model))
    language = model.get_decoder()
    wanted = {layer.weight for layer in language.modules() if isinstance(layer, nn.Linear)}
    lora.adapt(model, 2, seed=0)
    adapted = [layer for layer in model.modules() if hasattr(layer, "lora_A")]
    assert {layer.base_layer.weight for layer in adapted} == wanted and len(wanted) == 2 * (4 + 3)
    model(torch.tensor([[2, 3, 4]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
