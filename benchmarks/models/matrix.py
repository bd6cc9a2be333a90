"""Every architecture of transformers, small: exact packed, padded, with LoRA, generated, decoded; or refused, and why.

The oracle is the model itself, one sequence at a time, with its own stock eager attention in fp32: loss and the
gradients of all parameters, and the tokens of greedy decoding without cache or padding. A gradient is exact within a
thousandth of the largest of the model, a loss within 1e-4, tokens when they are the same. "wrong" is neither exact nor
refused; no row may say so. "as stock" is left padding that the stock model does not keep apart either; "fails" is an
error of another library, whose sentence stands in the last column.

packed, padded: `weighted_loss` over the plans and collators of the training; lora: the same with LoRA's matrices
(packed where that is exact); generated: `generate` with left padding and a cache; decoded: `evals.decoding.greedy`.

    make models                                          all, to results/models.csv and results/models.md
    python -m benchmarks.models.matrix llama gpt_oss     these, to the terminal
"""

import contextlib
import csv
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers import logging as transformers_logging

from benchmarks.models import small
from longalign.common import paths
from longalign.evals.decoding import greedy
from longalign.recipe.architectures import why_not_loaded, why_not_packed, why_not_padded
from longalign.recipe.attention import register_attention
from longalign.recipe.batching import make_plan, plan_packing
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.dataset import PlannedDataset, measure
from longalign.recipe.loss import weighted_loss
from longalign.train import lora

WAYS = ("packed", "padded", "lora", "generated", "decoded")
COLUMNS = ("architecture", "class", *WAYS, "reason")
LENGTHS = ((13, 9), (9, 6), (17, 13), (6, 3))
"""(tokens, tokens of the prompt) of the sequences; windows, chunks and indexes of the small models are shorter."""
ROOM = 5
NO_END = -1

Row = dict[str, str]
Outcome = tuple[float, dict[str, Tensor]]


def sequences() -> list[dict[str, list[int]]]:
    """The same four random sequences for every model, the prompts without targets."""
    random = torch.Generator().manual_seed(5)
    drawn = [torch.randint(3, small.VOCABULARY, (length,), generator=random).tolist() for length, _ in LENGTHS]
    return [
        {"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]}
        for ids, (_, prompt) in zip(drawn, LENGTHS, strict=True)
    ]


def alone(model: PreTrainedModel) -> Outcome:
    """Eq. 2 of arXiv 2401.18058 the slow way: loss and gradients of one sequence at a time."""
    total, items = 0.0, sequences()
    for item in items:
        logits = model(input_ids=torch.tensor([item["input_ids"]]), use_cache=False).logits[0]
        loss = F.cross_entropy(logits[:-1], torch.tensor(item["labels"])[1:], ignore_index=-100) / len(items)
        loss.backward()
        total += loss.item()
    return total, _gradients(model)


def together(model: PreTrainedModel, way: str) -> Outcome:
    """The same by our plans, collators and loss, `way` "packed" or "padded"."""
    items = sequences()
    lengths, counts = measure(items)
    if way == "packed":
        plan, collate = plan_packing(lengths, target_counts=counts, capacity=64), PackedCollator(0)
    else:
        plan, collate = make_plan("naive", lengths, target_counts=counts, rows=len(items)), PaddedCollator(0)
    total = 0.0
    for micro_batch in PlannedDataset(items, [plan]):
        loss = weighted_loss(model, collate([micro_batch]))
        loss.backward()
        total += loss.item()
    return total, _gradients(model)


def _gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    return found


def verdict(wanted: Outcome, found: Outcome) -> str:
    """"exact", or "wrong" with the error of the gradients, in parts of the largest.

    >>> verdict((1.0, {"w": torch.ones(2)}), (1.0, {"w": torch.tensor([1.0, 0.5])}))
    'wrong: gradients differ by 5.0e-01'
    """
    largest = max(gradient.abs().max() for gradient in wanted[1].values())
    error = max(((wanted[1][name] - found[1][name]).abs().max() / largest).item() for name in found[1])
    if error < 1e-3 and abs(wanted[0] - found[0]) < 1e-4:
        return "exact"
    return f"wrong: gradients differ by {error:.1e}"


def prompts() -> list[Tensor]:
    """The beginnings of the sequences, for decoding."""
    return [torch.tensor(item["input_ids"][: 3 + 2 * i]) for i, item in enumerate(sequences())]


@torch.no_grad()
def written_alone(model: PreTrainedModel) -> list[list[int]]:
    """Greedy decoding without cache, padding and `generate`."""
    written = []
    for prompt in prompts():
        ids = prompt[None]
        for _ in range(ROOM):
            following = model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, following], 1)
        written.append(ids[0, len(prompt) :].tolist())
    return written


def generated(model: PreTrainedModel) -> list[list[int]]:
    """By `generate`, with a cache, all prompts at once, padded on the left."""
    given = prompts()
    width = max(map(len, given))
    ids, mask = (
        torch.stack([F.pad(row, (width - len(row), 0)) for row in rows])
        for rows in (given, [torch.ones_like(prompt) for prompt in given])
    )
    options = {"max_new_tokens": ROOM, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(ids, attention_mask=mask, **options)[:, width:].tolist()


def row(name: str) -> Row:
    """What is exact for one architecture, and what is refused with which sentence."""
    stock = small.build(name)
    result: Row = {"architecture": name, "class": type(stock).__name__}
    refusal = why_not_loaded(type(stock))
    if refusal:
        return {**result, **dict.fromkeys(WAYS, "refused"), "reason": refusal}
    ours, adapted = (small.build(name, attention=register_attention()) for _ in range(2))
    wanted, written, reasons = alone(stock), written_alone(stock), {}
    stock_generated = _judge(None, lambda: repr(generated(stock)))
    for way, why in (("packed", why_not_packed), ("padded", why_not_padded)):
        result[way], reasons[way] = _judge(why(ours), lambda way=way: verdict(wanted, together(ours, way)))
    way = "packed" if result["packed"] == "exact" else "padded"
    result["lora"], reasons["lora"] = _judge(None, lambda: _with_lora(stock, adapted, way))
    result["generated"], reasons["generated"] = _generated(written, stock_generated, ours)
    result["decoded"], reasons["decoded"] = _judge(None, lambda: _same(written, _decoded(ours)))
    return {**result, "reason": "; ".join(dict.fromkeys(reason for reason in reasons.values() if reason))}


def _judge(refusal: str | None, try_it: Callable[[], str]) -> tuple[str, str]:
    if refusal:
        return "refused", refusal
    try:
        return try_it(), ""
    except ValueError as refused:
        return "refused", " ".join(str(refused).split())
    except Exception as error:  # noqa: BLE001  whatever a model raises is a row of the table
        return "fails", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _same(wanted: list[list[int]], found: list[list[int]]) -> str:
    return "exact" if wanted == found else "wrong: other tokens"


def _generated(wanted: list[list[int]], stock: tuple[str, str], model: PreTrainedModel) -> tuple[str, str]:
    """What the stock model makes of left padding is not ours to mend, and is said."""
    found = _judge(None, lambda: repr(generated(model)))
    if found[0] == "refused":
        return found
    if found[0] == repr(wanted):
        return "exact", ""
    return ("as stock", "") if found == stock else ("wrong: other tokens", found[1])


def _decoded(model: PreTrainedModel) -> list[list[int]]:
    return greedy(model, prompts(), end=NO_END, room=ROOM)


def _with_lora(stock: PreTrainedModel, ours: PreTrainedModel, way: str) -> str:
    """LoRA's matrices, none of them zero: their gradients, and the merged model's logits."""
    for model in (stock, ours):
        lora.adapt(model, 2, seed=0)
    drawn = {name: 0.1 * torch.randn_like(p) for name, p in stock.named_parameters() if p.requires_grad}
    for model in (stock, ours):
        for name, parameter in model.named_parameters():
            if name in drawn:
                parameter.data = drawn[name].clone()
    return verdict(alone(stock), together(ours, way))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' remarks about missing kernels and old names."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(before)


def page(rows: Sequence[Row]) -> str:
    """The table as one page of markdown."""
    counts = {way: Counter(row[way].split(":")[0] for row in rows) for way in WAYS}
    said = "; ".join(f"{way}: {', '.join(f'{n} {word}' for word, n in sorted(count.items()))}"
                     for way, count in counts.items())  # fmt: skip
    lines = [
        "# Architectures", "",
        "`make models` builds each causal architecture of transformers small, and compares what this library computes "
        "with the model itself, one sequence at a time, with its own eager attention in fp32.", "",
        "| column | what is compared |", "|---|---|",
        "| packed, padded | loss and gradients of a training on packs, or on padded rows |",
        "| lora | the same with LoRA's matrices, packed where that is exact |",
        "| generated | `generate` with left padding and a cache |",
        "| decoded | this library's own decoding of many prompts |", "",
        "*exact*: within rounding. *refused*: an error with the reason, in the last column. *as stock*: the model "
        "itself does not keep left padding apart. *fails*: an error of another library.", "",
        f"{len(rows)} architectures. {said}.", "",
        "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(row[column].replace("|", "\\|") for column in COLUMNS) + " |" for row in rows),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(names: Sequence[str]) -> int:
    with quiet():
        rows = []
        for name in names or small.names():
            rows.append(row(name))
            print("  ".join(f"{rows[-1][column]:10}" for column in COLUMNS), flush=True)
    if not names:
        folder = paths.root() / "results"
        (folder / "models.md").write_text(page(rows), encoding="utf-8")
        with (folder / "models.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    wrong = [row["architecture"] for row in rows if any(row[way].startswith("wrong") for way in WAYS)]
    if wrong:
        print(f"wrong in silence: {', '.join(wrong)}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
