"""Preference training (DPO, arXiv 2305.18290) of a trained model by TRL, on pairs of right and wrong answers.

A job of its own, addressed by its key as a training run is. It trains on one process and takes less than a minute on a
miniature; one that was stopped begins anew. TRL is an extra of this package: `pip install longalign[trl]`.
"""

import importlib.util
import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from longalign.common import checksums, paths, provenance
from longalign.common.source_hash import source_hash
from longalign.data.chat import tokenizer_hash
from longalign.experiments import training_data
from longalign.experiments.base_models import Start
from longalign.miniature import preferences, tokenizer, training_sets
from longalign.train.runs import Trained


@dataclass(frozen=True)
class Preference(Trained):
    """DPO of the model in the folder `start` on `pairs`, a JSONL file as `longalign.miniature.preferences` writes it.

    `rate`, `beta`, `pairs_per_step` and `seed` (of the order) are DPO's; every pair is seen once. The reference model
    is the start itself. `label` is for people and does not enter the key.
    """

    label: str
    start: str
    pairs: str
    rate: float
    beta: float
    pairs_per_step: int
    seed: int

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits; equal keys mean equal runs."""
        return provenance.config_hash({
            "start": provenance.hash_model(self.start), "pairs": provenance.hash_files(self.pairs),
            **{name: getattr(self, name) for name in ("rate", "beta", "pairs_per_step", "seed")},
            "tokenizer": tokenizer_hash(tokenizer.load()), "code": source_hash("experiments.preferences.trainer"),
        })  # fmt: skip

    def perform(self) -> None:
        """Train in this process, from the start."""
        began, cpu = time.perf_counter(), time.process_time()
        trained = trainer(self, self.folder / "work")
        trained.train()
        trained.model.save_pretrained(self.model)
        steps = [entry for entry in trained.state.log_history if "rewards/margins" in entry]
        with provenance.atomic(self.folder / "events.jsonl") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in steps)
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        where = {"start": paths.relative(self.start), "pairs": paths.relative(self.pairs)}
        provenance.write_json(self.folder / "record.json", {
            "steps": trained.state.global_step, "tokens": int(trained.state.num_input_tokens_seen),
            "seconds": round(time.perf_counter() - began, 3), "cpu_seconds": round(time.process_time() - cpu, 3),
            "files": checksums.hashes(self.folder, "model", "events.jsonl"), "key": self.key,
            "run": asdict(self) | where, "peak_memory_mb": round(provenance.peak_memory_mb(), 1),
            "versions": provenance.versions(("trl", "transformers", "torch")), "hardware": provenance.hardware(),
        })  # fmt: skip

    def progress(self) -> str:
        """One phrase while it is under way."""
        return "preference training"

    def summary(self) -> str:
        """Steps and time of a run that is finished."""
        done = self.record()
        return f"{done['steps']} steps of DPO in {done['seconds']:.0f} s"


def trainer(job: Preference, folder: Path) -> Any:
    """TRL's DPOTrainer as the job asks for it, ready to train: fp32, no dropout, no token cut off."""
    import datasets
    import trl

    from longalign.train.models import load_model

    rows = [json.loads(line) for line in Path(job.pairs).read_text(encoding="utf-8").splitlines()]
    kept = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    arguments = trl.DPOConfig(
        output_dir=str(folder), per_device_train_batch_size=job.pairs_per_step, num_train_epochs=1,
        learning_rate=job.rate, beta=job.beta, seed=job.seed, max_length=None, lr_scheduler_type="cosine",
        warmup_steps=0.1, bf16=False, gradient_checkpointing=False, save_strategy="no", logging_steps=1,
        include_num_input_tokens_seen="non_padding", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    return trl.DPOTrainer(
        load_model(job.start), ref_model=load_model(job.start), args=arguments,
        train_dataset=datasets.Dataset.from_list(kept), processing_class=tokenizer.load(),
    )  # fmt: skip


def pairs_file(start: Start, seed: int) -> Path:
    """The pairs of a seed as JSONL, drawn where they are missing."""
    corpus = replace(start.profile.corpus, seed=start.profile.corpus.seed + seed)
    code = source_hash("miniature.preferences.pairs", "miniature.training_sets.write_jsonl")
    file = training_data.data_folder(start) / f"seed-{seed}" / f"preferences-{code}.jsonl"
    if not file.is_file():
        training_sets.write_jsonl(file, preferences.pairs(corpus))
    return file


def check_installed() -> None:
    """Raises ImportError, in a sentence, where TRL is not installed: hours of other trainings come before it."""
    if importlib.util.find_spec("trl") is None:
        raise ImportError("preference training needs TRL, which is not installed: pip install 'longalign[trl]'")
