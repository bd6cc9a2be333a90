"""What the notebooks train, from a profile: context extension and the training methods of Table 3, as runs with keys.

Every notebook that asks for the same model gets the same run, so nothing is trained twice.
"""

from pathlib import Path
from typing import Any

from longalign import paths, record
from longalign.bases import MAX_LENGTH, TOKENS_PER_STEP
from longalign.chat import encode_prompt
from longalign.corpus import suites, tokenizer
from longalign.profiles import Profile
from longalign.runs import Run, source_hash
from longalign.store import TokenStore

# Table 3's methods: how sequences are batched, and how their losses are weighted (see longalign.planned).
METHODS = {
    "naive": ("naive", "sequence"),
    "sorted": ("sorted", "sequence"),
    "packing": ("packing", "eq3"),
    "packing + loss weighting": ("packing", "sequence"),
}


def data_folder(profile: Profile) -> Path:
    """Where a profile's JSONL files and token stores lie: a folder of its own for every corpus, setting and code."""
    settings = {name: profile.as_dict()[name] for name in ("corpus", "extension", "evaluation")}
    key = record.config_hash({**settings, "code": source_hash("corpus", "chat", "rendering", "store_writer")})
    return paths.run_dir(profile.name) / "data" / key


def suite_store(profile: Profile, name: str) -> TokenStore:
    """A training suite of the profile as token store, built where it is missing."""
    return suites.suite_store(name, profile.corpus, data_folder(profile))


def evaluation_store(profile: Profile, *, heldout: bool = False) -> tuple[TokenStore, list[dict[str, Any]]]:
    """The profile's test set as token store, with its samples in the same order."""
    return suites.evaluation_store(profile.evaluation, data_folder(profile), heldout=heldout)


def extension(profile: Profile, model: str) -> Run:
    """Continual training on long documents at RoPE base x `rope_factor`: the short base becomes the long base.

    arXiv 2401.18058. Full-length packs, every token of an answer and some of the others are targets.
    """
    settings = profile.extension
    store = suites.documents_store(
        "extension", data_folder(profile) / "extension", tokens=settings.tokens,
        lengths=(MAX_LENGTH, settings.max_length), recall_share=0.25, seed=profile.corpus.seed,
    )  # fmt: skip
    training = {
        "method": "packing", "exponent": 1.0, "epochs": 1, "capacity": max(TOKENS_PER_STEP, settings.max_length),
        "learning_rate": settings.learning_rate, "seed": profile.seed,
    }  # fmt: skip
    return Run(
        f"{model} context extension", str(store.folder), training, start=str(paths.bases() / model),
        rope_factor=settings.rope_factor, max_length=settings.max_length,
    )  # fmt: skip


def fine_tuning(profile: Profile, model: str, *, method: str, suite: str = "LongAlign-10k", seed: int = 0) -> Run:
    """Supervised fine-tuning of the long base by one of `METHODS`; `seed` varies the order of the samples.

    The long base must have been trained: the run's key holds the hash of its weights.
    """
    settings = profile.training
    batching, weighting = METHODS[method]
    packed = batching == "packing"
    training = {
        "method": batching, "weighting": weighting, "epochs": settings.epochs, "learning_rate": settings.learning_rate,
        "schedule": settings.schedule, "warmup_ratio": settings.warmup_ratio, "beta1": settings.beta1,
        "beta2": settings.beta2, "weight_decay": settings.weight_decay, "capacity": settings.capacity,
        "rows": 1 if packed else settings.rows,
        "accumulation": settings.packs_per_step if packed else settings.accumulation,
        "packing_algorithm": settings.packing_algorithm, "seed": seed, "checkpoint_every": settings.checkpoint_every,
    }  # fmt: skip
    if weighting == "sequence":
        training["exponent"] = settings.exponent
    store = suite_store(profile, suite)
    return Run(f"{model} {method}", str(store.folder), training, start=str(extension(profile, model).model))


def answer(run: Run, sample: dict[str, Any], *, max_new_tokens: int = 64) -> str:
    """Question, reference and the answer that the run's model writes by greedy decoding, as three lines."""
    import torch

    from longalign.models import load_model

    encode, messages = tokenizer.load(), sample["messages"]
    prompt = torch.from_numpy(encode_prompt(messages[:-1], encode))[None].long()
    written = load_model(run.model).generate(
        prompt, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True  # training saves models with it off
    )
    question = messages[-2]["content"].rpartition("\n\n")[2]
    text = encode.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
    return f"question:  {question}\nreference: {messages[-1]['content']}\nwritten:   {text}"
