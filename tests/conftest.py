"""Fixtures that several test modules share: tiny models in fp64, random sequences, marks."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # `nohup make test &`: processes that the tests start and interrupt would inherit that the signal is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# how fast a machine draws its examples says nothing of the code
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def requires_gpu(test):
    """Marks a test `gpu` and skips it where there is no CUDA device."""
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


def tiny_llama(*, attention: str | None = None, dtype=torch.float64, **overrides):
    """A two-layer Llama with grouped-query attention (4 query heads on 2), always the same weights.

    transformers computes RMSNorm in fp32 whatever the dtype, which hides everything below 1e-7: torch's own takes its
    place.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from longalign.recipe.attention import register_attention

    settings = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "initializer_range": 0.3, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "attn_implementation": attention or register_attention(),
    }  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(settings | overrides)))
    for parent in [model.model, *model.model.layers]:
        for name, _ in parent.named_children():
            if name.endswith("norm"):
                setattr(parent, name, torch.nn.RMSNorm(model.config.hidden_size, eps=model.config.rms_norm_eps))
    return model.to(dtype)


def random_sequences(lengths, *, seed=0, vocab=32, target_share=0.5, without_targets=()):
    """Features without weights: tokens may be 0; labels are the token or IGNORE_INDEX, position 0 included."""
    rng = np.random.default_rng(seed)
    features = []
    for index, length in enumerate(lengths):
        tokens = rng.integers(0, vocab, length)
        is_target = rng.random(length) < (0 if index in without_targets else target_share)
        features.append({"input_ids": tokens.tolist(), "labels": np.where(is_target, tokens, -100).tolist()})
    return features


def gradients(model):
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def largest_difference(left, right) -> float:
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.fixture
def parts_of(monkeypatch):
    """Sets the least bytes of a part; returns what `_known` answered, part by part, of the calls that follow."""
    from longalign.data import tokenize_files

    answers, known = [], tokenize_files.Job._known

    def noted(*given):
        answers.append(known(*given))
        return answers[-1]

    monkeypatch.setattr(tokenize_files.Job, "_known", noted)

    def set_bytes(size):
        monkeypatch.setattr(tokenize_files, "PART_BYTES", size)
        answers.clear()
        return answers

    return set_bytes
