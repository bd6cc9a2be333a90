"""The trainers that stage e compares: each takes a `Job`, does one step that is not timed and then all others timed."""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithFlattening, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from benchmarks.gpu import backends, llama, ranks, timing
from benchmarks.gpu.rows import Context
from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe import attention
from longalign.recipe.attention_kernels import why_unusable
from longalign.recipe.collators import PackedCollator
from longalign.recipe.dataset import PlannedDataset
from longalign.train.parallelism import Parallelism
from longalign.train.plan_trainer import PlanTrainer
from longalign.train.trainer import TrainingConfig, training_arguments

LEARNING_RATE = 1e-6
MOST_ROWS = 4
BYTES_A_LOGIT = 14
"""Of a plain loss: the logit in bf16 and fp32, its log-softmax and its gradient in fp32."""


@dataclass(frozen=True)
class Job:
    """What is trained: the model, and token ids of sequences by pack; the first pack is the warm-up."""

    context: Context
    model: Any
    packs: list[list[np.ndarray]]
    capacity: int

    @property
    def tokens(self) -> int:
        """Of the sequences that are timed."""
        return sum(len(ids) for pack in self.packs[1:] for ids in pack)

    @property
    def steps(self) -> int:
        """With the warm-up."""
        return len(self.packs)


@dataclass(frozen=True)
class Turn:
    """Seconds and real tokens of the steps that were timed, the peak of memory in bytes, and what ran."""

    seconds: float
    tokens: int
    peak: int
    backend: str
    note: str = ""
    slower: str = ""
    """Why its kernel is not the one it should be."""


class Clock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self, device: torch.device):
        self.device = device
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """What the Trainer calls."""
        self.ends.append(timing.clock(self.device))

    def turn(self, tokens: int, backend: str, note: str = "") -> Turn:
        """All steps but the first."""
        return Turn(self.ends[-1] - self.ends[0], tokens, timing.peak(self.device), backend, note)


def longalign(job: Job) -> Turn:
    """This package's trainer, as `longalign.train.trainer.train` builds it; without checkpoints and event log."""
    _use(job, attention.register_attention())
    lengths = [[len(ids) for ids in pack] for pack in job.packs]
    sequences = [{"input_ids": ids, "labels": ids} for pack in job.packs for ids in pack]
    clock = Clock(job.context.device)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(learning_rate=LEARNING_RATE)
        arguments = training_arguments(config, folder, Parallelism(gradient_checkpointing=True))
        arguments.max_steps, arguments.save_strategy = job.steps, SaveStrategy.NO
        arguments._n_gpu = min(arguments.n_gpu, 1)
        dataset = PlannedDataset(sequences, [ranks.plan_of(lengths, job.capacity)])
        trainer = PlanTrainer(job.model, args=arguments, dataset=dataset, collator=PackedCollator(0))
        trainer.add_callback(clock)
        with backends.ran() as seen:
            trainer.train()
    job.model.get_output_embeddings().__class__ = torch.nn.Linear  # for the others, as it was
    return replace(clock.turn(job.tokens, backends.named(seen)), slower=backends.slower(seen, job.context))


def padded(job: Job) -> Turn:
    """transformers' Trainer on padded rows."""
    _use(job, "sdpa")
    longest = max(len(ids) for pack in job.packs for ids in pack)
    most = _free(job.context.device) // (BYTES_A_LOGIT * job.model.config.vocab_size * longest)
    start = next(rows for rows in (MOST_ROWS, 2, 1) if rows <= max(most, 1))
    (turn, positions), rows, halved = timing.halving(start, lambda rows: _padded(job, rows), job.context.device)
    told = f"{rows} row{'s' * (rows > 1)} a micro-batch, {job.tokens / positions:.0%} of the positions are tokens"
    return replace(turn, note="; ".join(filter(None, (told, halved))))


def flattened(job: Job, way: str = "") -> Turn:
    """A plain loop over flattened packs, with the best attention of transformers that works here, or that given."""
    way = way or best_attention(job.context.device)
    _use(job, way)
    device = job.context.device
    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=way == "flash_attention_2")
    optimizer = torch.optim.AdamW(job.model.parameters(), lr=LEARNING_RATE, fused=device.type == "cuda")
    clock = Clock(device)
    for pack in job.packs:
        batch = llama.to(collator([_listed(ids) for ids in pack]), device)
        job.model(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(job.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.on_step_end(None, None, None)
    return clock.turn(job.tokens, _name(way, device))


def trl(job: Job) -> Turn:
    """TRL's SFTTrainer, packing as is its default; real tokens are counted as it passes them."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    way, clock, tokens = best_attention(job.context.device), Clock(job.context.device), []

    class Counting(SFTTrainer):
        def training_step(self, model, inputs, *rest, **options):
            tokens.append(int((inputs["input_ids"] != 0).sum()))
            return super().training_step(model, inputs, *rest, **options)

    _use(job, way)
    data = datasets.Dataset.from_list([{"input_ids": ids.tolist()} for pack in job.packs for ids in pack])
    with tempfile.TemporaryDirectory() as folder:
        told = {**_told(job, folder), "bf16": False, "gradient_checkpointing": True}
        arguments = SFTConfig(packing=True, max_length=job.capacity, per_device_train_batch_size=1, **told)
        trainer = Counting(model=job.model, args=arguments, train_dataset=data, processing_class=_tokenizer())
        trainer.add_callback(clock)
        trainer.train()
    return clock.turn(sum(tokens[1:]), _name(way, job.context.device))


SYSTEMS: dict[str, Callable[[Job], Turn]] = {one.__name__: one for one in (longalign, padded, flattened)}


def best_attention(device: torch.device) -> str:
    """flash-attn where it works; else sdpa, which is what transformers takes by itself."""
    works = device.type == "cuda" and not why_unusable("flash_attn", torch.cuda.current_device())
    return "flash_attention_2" if works else "sdpa"


def _name(way: str, device: torch.device) -> str:
    return f"{llama.sdpa_name(device)}, dense mask" if way == "sdpa" else way


def _padded(job: Job, rows: int) -> tuple[Turn, int]:
    """With so many rows in a micro-batch: the turn, and the positions that its timed steps computed."""
    batches = _batches([ids for pack in job.packs[1:] for ids in pack], rows)
    accumulation = -(-len(batches) // (job.steps - 1))
    warm_up = itertools.islice(itertools.cycle(_batches(job.packs[0], rows)), accumulation)
    clock = Clock(job.context.device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            **{**_told(job, folder), "max_steps": 1 + -(-len(batches) // accumulation)}, gradient_checkpointing=True,
            per_device_train_batch_size=1, gradient_accumulation_steps=accumulation,
            train_sampling_strategy="sequential",
        )  # fmt: skip
        arguments._n_gpu = min(arguments.n_gpu, 1)
        trainer = Trainer(job.model, arguments, train_dataset=[*warm_up, *batches], data_collator=_pad,
                          callbacks=[clock])  # fmt: skip
        trainer.train()
    positions = sum(len(batch) * max(map(len, batch)) for batch in batches)
    return clock.turn(job.tokens, llama.sdpa_name(job.context.device)), positions


def _told(job: Job, folder: str | Path) -> dict[str, Any]:
    """What all of transformers' trainers are told."""
    return {"output_dir": str(folder), "max_steps": job.steps, "learning_rate": LEARNING_RATE, "report_to": "none",
            "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "remove_unused_columns": False,
            "use_cpu": job.context.device.type == "cpu", "dataloader_pin_memory": False}  # fmt: skip


def _use(job: Job, way: str) -> None:
    """Attention by this name, no gradients, and the peak of memory from here on."""
    job.model.set_attn_implementation(way)
    job.model.zero_grad(set_to_none=True)
    timing.reset_peak(job.context.device)


def _batches(sequences: Sequence[np.ndarray], rows: int) -> list[list[np.ndarray]]:
    order = np.random.default_rng(0).permutation(len(sequences)).tolist()
    return [[sequences[i] for i in order[start : start + rows]] for start in range(0, len(order), rows)]


def _pad(batch: Sequence[Sequence[np.ndarray]]) -> dict[str, torch.Tensor]:
    """As transformers' DataCollatorForSeq2Seq pads, which asks for a tokenizer."""
    (sequences,) = batch
    longest = max(map(len, sequences))

    def filled(arrays: Iterator[np.ndarray], value: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.pad(a, (0, longest - len(a)), constant_values=value) for a in arrays]))

    return {"input_ids": filled(iter(sequences), 0), "labels": filled(iter(sequences), IGNORE_INDEX),
            "attention_mask": filled((np.ones_like(ids) for ids in sequences), 0)}  # fmt: skip


def _listed(ids: np.ndarray) -> dict[str, list[int]]:
    return {"input_ids": ids.tolist(), "labels": ids.tolist()}


def _free(device: torch.device) -> int:
    """Bytes of the card that nothing uses; of a CPU more than is asked for."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2**62


def _tokenizer() -> Any:
    """A tokenizer of three words, for a trainer that asks for one; the sequences are token ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
