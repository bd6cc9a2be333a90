"""One rank of `test_engine.py`: trains every method on every engine of its list and keeps losses and gradients.

    torchrun engines.py FOLDER            two ranks, all engines
    python engines.py FOLDER              one plain process: what the others are held to
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from longalign.data.store import TokenStore
from longalign.recipe import attention
from longalign.recipe.collators import PackedCollator
from longalign.train import preflight
from longalign.train.launcher import exit_rank
from longalign.train.models import new_model
from longalign.train.parallelism import Parallelism
from longalign.train.plan_trainer import PlanTrainer
from longalign.train.sequence_parallel import attach, slice_of
from longalign.train.trainer import TrainingConfig, train, training_arguments
from test_trainer import CONFIG, fresh_model

RANKS, ACCUMULATION = 2, 3
METHODS = {
    "naive": {"method": "naive"},
    "sorted": {"method": "sorted"},
    "packing": {"method": "packing", "weighting": "eq3"},
    "packing + loss weighting": {"method": "packing"},
    "packing, LoRA": {"method": "packing", "lora_rank": 4},
}
ENGINES = {
    "ZeRO 0": Parallelism(ranks=RANKS, zero=0),
    "ZeRO 1": Parallelism(ranks=RANKS, zero=1),
    "ZeRO 2": Parallelism(ranks=RANKS, zero=2),
    "ZeRO 3": Parallelism(ranks=RANKS, zero=3),
    "ZeRO 3, offload": Parallelism(ranks=RANKS, zero=3, offload="all"),
    "ZeRO 2, bf16": Parallelism(ranks=RANKS, zero=2, bf16=True),
    "ZeRO 2, Ulysses": Parallelism(ranks=RANKS, zero=2, sequence_parallel=2),
    "ZeRO 3, Ulysses": Parallelism(ranks=RANKS, zero=3, sequence_parallel=2),
}


def methods_of(engine: Parallelism) -> list[str]:
    """What an engine can train by: ranks share sequences in packs alone."""
    return [method for method in METHODS if engine.sequence_parallel == 1 or "packing" in method]


def config(method: str, *, batches: int) -> TrainingConfig:
    """Small steps that are clipped; what two ranks do at a time, one does in its rows, or (packs) one after another."""
    packed, times = "packing" in method, RANKS // batches
    return replace(
        CONFIG, **METHODS[method], epochs=2, steps=4, max_grad_norm=0.5, rows=1 if packed else times,
        micro_batches_per_step=ACCUMULATION * (RANKS if packed else batches),
        group_size=RANKS,  # sorted batching's rows of about one length, however they are dealt
    )  # fmt: skip


def keep_first_gradients(kept: dict[str, np.ndarray]) -> None:
    """Have the next training put the gradients of its first step, before they are clipped, into `kept`."""
    from deepspeed import DeepSpeedEngine
    from deepspeed.utils import safe_get_full_grad

    plain, engine = PlanTrainer._clip_grad_norm, DeepSpeedEngine.step

    def clip(self, model):
        if not kept:
            kept.update({name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.requires_grad})
        return plain(self, model)

    def step(self, *arguments, **options):
        if not kept and self.is_gradient_accumulation_boundary():
            trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
            gradients = {name: safe_get_full_grad(p) for name, p in trained.items()}
            kept.update({name: gradient.float().numpy().copy() for name, gradient in gradients.items()})
        return engine(self, *arguments, **options)

    PlanTrainer._clip_grad_norm, DeepSpeedEngine.step = clip, step


def keep_logits(folder: Path, ranks: int) -> None:
    """Logits of a pack, by a model of grouped and one of plain heads: of the whole, or of this rank's slice."""
    for name in ("mini-6b", "mini-13b"):  # the three heads of mini-7b are not for two ranks
        model, rank = new_model(name, vocab_size=40, max_length=24, seed=0), int(os.environ.get("RANK", "0"))
        batch = PackedCollator(0)([{"input_ids": range(2, 2 + n), "labels": range(2, 2 + n), "loss_weight": 1.0}
                                   for n in (2, 4, 3, 12)])  # fmt: skip
        if ranks > 1:
            attach(model, ranks)
            batch = slice_of(batch, rank, ranks, pad_token_id=0)
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "loss_weights")}
        with torch.no_grad():
            np.save(folder / f"{name}-{ranks}-{rank}.npy", model(**inputs).logits.numpy())


def keep_refusals(folder: Path, store: TokenStore) -> None:
    """What each rank is told of an attention that forgets where the sequences of a pack begin."""
    plain = attention.block_causal_attention
    attention.block_causal_attention = lambda q, k, v, offsets, _, **options: plain(
        q, k, v, offsets[[0, -1]], int(offsets[-1]), **options
    )
    for name in ("ZeRO 3", "ZeRO 3, Ulysses", "ZeRO 2, bf16"):
        engine, target = ENGINES[name], folder / name / "leaking"
        settings = config("packing", batches=engine.batches)
        arguments = training_arguments(settings, target, engine)
        shared = {"sequence_parallel": engine.sequence_parallel}
        try:
            train(fresh_model(), store, settings, target, arguments=arguments, **shared)
        except ValueError as refusal:
            (target / f"refusal-{os.environ['RANK']}.txt").write_text(str(refusal))


def keep_preflight(folder: Path, name: str) -> None:
    """What each rank is told of a model that ZeRO-3 deals to the ranks as it is made, before there is an engine."""
    engine = ENGINES["ZeRO 3"]
    arguments = training_arguments(config("packing", batches=engine.batches), folder / "dealt", engine)
    dealt = LlamaForCausalLM._from_config(fresh_model().config, attn_implementation=attention.NAME)
    (folder / "dealt").mkdir(exist_ok=True)
    try:
        told = [*preflight.preflight(dealt), str(dealt.lm_head.weight.numel())]
    except ValueError as refusal:
        told = [str(refusal)]
    (folder / "dealt" / f"{name}-{arguments.process_index}.txt").write_text("\n".join(told))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    store = TokenStore(folder / "store")
    for name, engine in ENGINES.items() if ranks > 1 else [("alone", Parallelism())]:
        for method in methods_of(engine):
            kept: dict[str, np.ndarray] = {}
            keep_first_gradients(kept)
            target = folder / name / method
            settings = config(method, batches=engine.batches)
            arguments = training_arguments(settings, target, engine)
            shared = {"sequence_parallel": engine.sequence_parallel}
            trainer = train(fresh_model(), store, settings, target, arguments=arguments, **shared)
            trainer.write_model(target / "model")
            if os.environ.get("RANK", "0") == "0":
                np.savez(target / "gradients.npz", **kept)
                (target / "done.json").write_text(json.dumps({"ranks": ranks}))
    keep_logits(folder, ranks)
    if ranks > 1:
        keep_preflight(folder, "exact")
        keep_refusals(folder, store)
        keep_preflight(folder, "leaking")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    exit_rank()
