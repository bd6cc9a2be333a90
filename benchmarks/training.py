"""Training end to end on a CPU: the same tiny Llama, the same conversations, one pack a step, real tokens a second.

Ours is `longalign.train.trainer`; TRL is `SFTTrainer(packing=True)` as installed, with the prompts masked as its
`completion_mask` does; naive padding is transformers' Trainer with as many conversations a step as a pack holds, padded
to the longest; LLaMA-Factory is its `run_exp` with `packing` and `neat_packing`. All train in fp32 without gradient
checkpointing; TRL is measured in its own defaults (bf16, checkpointing), too. Real tokens, padding left out, over
processor seconds from the end of the first step to that of the last, so that no start is in it; what a process takes
until its first step, data prepared, is told apart ("start"). Of everyone's first pack it is checked whether its
sequences see each other; what is learned is not compared. Lengths are long-tailed, nine short conversations for a long
one, and others in every round. Where only answers are targets, ours computes the last layer and the loss for little
else; where every token is one, it cannot. TRL 1.16.0 computes the loss of targets alone on a GPU, too; on a CPU, where
it has no Triton, of all positions, with entropy and accuracy for its log: its rows are of that path. A larger Llama
says how much of the lead is of the smallness.

Naive padding is measured at the smaller packs alone, because at the larger ones it takes minutes and gigabytes.
What a step spends on reading data stands beside ours.

    python -m benchmarks.training
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, peers

TARGET = "training"
WINDOWS = {"packs of 2,048": 2048, "packs of 8,192": 8192}
TARGETS = {"answers": 8, "all tokens": 1}
"""Which tokens are targets: the last eighth of a conversation, or all."""
STEPS = {2048: 6, 8192: 4}
VOCABULARY = 2000
MODELS = {"small": (96, 256, 3, 6, 3), "larger": (256, 688, 6, 8, 4)}
"""Width, width of the MLP, layers, heads, heads of keys: 0.6 and 5 million weights."""
NAIVE = "transformers: naive padding"
NOT_NAIVE = "a step would pad 14 conversations to some 7,000 tokens: minutes and gigabytes"
UNITS = {"speed": "tokens per CPU s", "memory": "MB", "start": "CPU s"}


def conversations(window: int, part: int) -> list[dict[str, list[int]]]:
    """Token ids and which of them are targets, at least as many as the steps read, in a random order."""
    random = np.random.default_rng(int(os.environ.get(common.ROUND, 0)))
    count = 14 * (STEPS[window] + 3)
    long = random.integers(window // 8, window + 1, count // 10)
    short = np.clip(random.lognormal(np.log(window / 40), 1.0, count - len(long)), 8, window).astype(int)
    return [
        {"input_ids": random.integers(3, VOCABULARY, n).tolist(),
         "completion_mask": [0] * (n - n // part) + [1] * (n // part)}
        for n in random.permutation(np.concatenate([long, short])).tolist()
    ]  # fmt: skip


def model(size: str) -> Any:
    """A Llama of `MODELS`, the same for all."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    width, inner, layers, heads, key_heads = MODELS[size]
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, head_dim=32, max_position_embeddings=8192,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, tie_word_embeddings=True, attn_implementation="sdpa",
    ))  # fmt: skip


def tokenizer() -> Any:
    """A word for each id, for trainers that ask for one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def settings(folder: str, window: int) -> dict[str, Any]:
    """What all transformers' trainers are told."""
    return {"output_dir": folder, "use_cpu": True, "bf16": False, "max_steps": STEPS[window], "report_to": "none",
            "per_device_train_batch_size": 1, "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
            "learning_rate": 1e-3, "gradient_checkpointing": False}  # fmt: skip


class Counter:
    """Real tokens and processor seconds after every step of a transformers Trainer, by its own `training_step`."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.seconds: list[float] = []
        self.start = 0.0
        self.first: dict[str, Any] = {}
        self.model: Any = None

    def watch(self, kind: type) -> None:
        """Count in all trainers of this class."""
        step = kind.training_step

        def counted(trainer: Any, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
            if not self.tokens:
                self.first, self.model, self.start = dict(inputs), model, time.process_time()
            self.tokens.append(int((inputs["input_ids"] != 0).sum()))
            loss = step(trainer, model, inputs, *rest, **options)
            self.seconds.append(time.process_time())
            return loss

        kind.training_step = counted

    def report(self, **more: float) -> None:
        """Tokens a second after the first step, the process's memory, and what it took until its first step; of packs
        whether their sequences see each other."""
        speed, memory = sum(self.tokens[1:]) / (self.seconds[-1] - self.seconds[0]), common.peak_mb()
        packed = {"leak": _leaks(self.model, self.first)} if len(self.first["input_ids"]) == 1 else {}
        common.report(speed=speed, memory=memory, start=self.start, **packed, **more)


def ours(window: int, part: int, size: str, folder: str) -> None:
    """`longalign.train.trainer` on a token store; also what of a step is reading."""
    from longalign.data.chat import Encoded
    from longalign.data.store import write_store
    from longalign.recipe import attention, collators, dataset
    from longalign.train import trainer
    from longalign.train.events import read_events
    from longalign.train.plan_trainer import PlanTrainer

    def encoded(row: dict[str, list[int]]) -> Encoded:
        ids = np.array(row["input_ids"], dtype=np.int32)
        return Encoded(ids, np.where(row["completion_mask"], ids, np.int32(-100)))

    counter = Counter()
    counter.watch(PlanTrainer)
    store = write_store(Path(folder) / "store", map(encoded, conversations(window, part)), meta={})
    reading = _timed(dataset.PlannedDataset, "__getitem__"), _timed(collators.PackedCollator, "__call__")
    llama = model(size)
    llama.set_attn_implementation(attention.register_attention())
    config = trainer.TrainingConfig(
        capacity=window, packing_algorithm="best_fit", steps=STEPS[window], learning_rate=1e-3
    )
    trainer.train(llama, store, config, Path(folder) / "run")
    seconds = read_events(Path(folder) / "run" / "events.jsonl")[-1]["cpu_seconds"]
    counter.report(reading=sum(map(sum, reading)) / seconds)


def trl(window: int, part: int, size: str, folder: str, defaults: bool = False) -> None:
    """TRL's SFTTrainer, packing by best fit as is its default."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    counter = Counter()
    counter.watch(SFTTrainer)
    told = settings(folder, window)
    if defaults:
        told = {name: value for name, value in told.items() if name not in ("bf16", "gradient_checkpointing")}
    arguments = SFTConfig(packing=True, max_length=window, completion_only_loss=part > 1, **told)
    rows = conversations(window, part)
    if part == 1:
        rows = [{"input_ids": row["input_ids"]} for row in rows]
    llama = model(size)
    data = datasets.Dataset.from_list(rows)
    SFTTrainer(model=llama, args=arguments, train_dataset=data, processing_class=tokenizer()).train()
    counter.report()


def trl_defaults(window: int, part: int, size: str, folder: str) -> None:
    """TRL in its own precision, bf16 by autocast, and with gradient checkpointing."""
    trl(window, part, size, folder, defaults=True)


def naive(window: int, part: int, size: str, folder: str) -> None:
    """transformers' Trainer; a step has as many conversations as a pack of ours holds, padded to the longest."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    counter = Counter()
    counter.watch(Trainer)
    rows = [{"input_ids": row["input_ids"],
             "labels": [i if m else -100 for i, m in zip(row["input_ids"], row["completion_mask"], strict=True)]}
            for row in conversations(window, part)]  # fmt: skip
    each = max(1, round(window * len(rows) / sum(len(row["input_ids"]) for row in rows)))
    arguments = TrainingArguments(**{**settings(folder, window), "per_device_train_batch_size": each})
    Trainer(model(size), arguments, train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer())).train()
    counter.report()


def llamafactory(window: int, part: int, size: str, folder: str) -> None:
    """LLaMA-Factory's supervised fine-tuning, from text that its tokenizer turns into the same ids."""
    peers.stand_in()
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
    from llamafactory.train.tuner import run_exp

    counter = Counter()
    counter.watch(CustomSeq2SeqTrainer)
    where = Path(folder)
    model(size).save_pretrained(where / "model")
    tokenizer().save_pretrained(where / "model")
    rows = []
    for row in conversations(window, part):
        words = [f"w{i} " for i in row["input_ids"]]
        cut = max(1, row["completion_mask"].index(1)) if part > 1 else 1
        rows.append({"instruction": "".join(words[:cut]).strip(), "input": "", "output": "".join(words[cut:]).strip()})
    (where / "rows.json").write_text(json.dumps(rows))
    (where / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    run_exp({
        **settings(str(where / "out"), window), "stage": "sft", "do_train": True, "finetuning_type": "full",
        "model_name_or_path": str(where / "model"), "template": "empty", "dataset": "rows", "dataset_dir": str(where),
        "cutoff_len": window, "packing": True, "neat_packing": True, "flash_attn": "sdpa",
        "disable_gradient_checkpointing": True, "preprocessing_num_workers": 1, "overwrite_cache": True,
    })  # fmt: skip
    counter.report()


SYSTEMS: dict[str, Callable[[int, int, str, str], None]] = {
    system.__name__: system for system in (ours, trl, trl_defaults, naive, llamafactory)
}


def child(system: str, window: str, part: str, size: str) -> None:
    """Train once in a folder that goes afterwards."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        SYSTEMS[system](int(window), int(part), size, folder)


def run(rounds: int = 2) -> list[common.Row]:
    """All systems by turns in every window, some on a part of the cases."""
    rows = []
    for case, window in WINDOWS.items():
        others = [NAIVE, "trl_defaults"] if window == min(STEPS) else []
        rows += _case(f"{case}, answers", window, TARGETS["answers"], rounds, ["trl", "llamafactory", *others])
        rows += _case(f"{case}, all tokens", window, TARGETS["all tokens"], rounds, ["trl"])
        if window != min(STEPS):
            rows.append(common.row(TARGET, NAIVE, f"{case}, answers", "speed", UNITS["speed"], [], NOT_NAIVE))
    rows += _case("packs of 2,048, answers, larger model", 2048, TARGETS["answers"], rounds, ["trl"], "larger")
    return rows


def _case(
    case: str, window: int, part: int, rounds: int, others: list[str], size: str = "small"
) -> list[common.Row]:
    commands, notes, rows = {common.OURS: _command("ours", window, part, size)}, {}, []
    for name in others:
        if name == NAIVE:
            commands[name] = _command("naive", window, part, size)
            continue
        known = peers.state(name.partition("_")[0])
        system = f"{known.system}: its defaults" if name == "trl_defaults" else known.system
        if known.reason:
            rows += [common.row(TARGET, system, case, m, unit, [], known.reason) for m, unit in UNITS.items()]
        else:
            commands[system] = _command(name, window, part, size)
    samples = common.alternate(commands, rounds)
    for system, taken in samples.items():
        if leaks := taken.of("leak"):
            notes[system] = f"its sequences {'see' if max(leaks) else 'do not see'} each other (checked)"
    rows += common.rows_of(TARGET, case, samples, UNITS, notes)
    rows += common.rows_of(TARGET, case, {common.OURS: samples[common.OURS]}, {"reading": "share"})
    theirs = [system for system in samples if system != common.OURS]
    return rows + [common.ratio(TARGET, case, "speed", samples, common.OURS, other) for other in theirs]


def _command(system: str, window: int, part: int, size: str) -> common.Command:
    arguments = ("-m", "benchmarks.training", system, str(window), str(part), size)
    peer = system.partition("_")[0]
    return peers.command(peer, *arguments) if peer in peers.PEERS else common.Command(arguments)


def _timed(kind: type, name: str) -> list[float]:
    """Have a method's processor seconds added to the list returned."""
    method, taken = getattr(kind, name), []

    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.process_time()
        found = method(*arguments, **options)
        taken.append(time.process_time() - began)
        return found

    setattr(kind, name, timed)
    return taken


def _leaks(llama: Any, inputs: dict[str, Any]) -> int:
    """Whether another first token changes what is predicted at the last token of the pack, in another sequence."""
    import torch

    batch = {name: value for name, value in inputs.items() if name not in ("labels", "loss_weights")}
    last = int((batch["input_ids"][0] != 0).nonzero()[-1])
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][0, 0] = 3 + (other["input_ids"][0, 0] + 1) % 100
    with torch.no_grad():
        before, after = (llama.eval()(**{**one, "use_cache": False}).logits[0, last] for one in (batch, other))
    return int(float((before - after).abs().max()) > 1e-5)


def main() -> int:
    """Measure, show and save."""
    return common.finish(TARGET, run(), peers=peers.versions())


if __name__ == "__main__":
    sys.exit(child(*sys.argv[1:]) if sys.argv[1:] else main())
