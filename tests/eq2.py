"""Eq. 2 the slow way, and the same step through plans, packs and ranks; shared by several tests."""

import faulthandler
import itertools

import torch
import torch.distributed as dist
import torch.nn.functional as F

from conftest import gradients, random_sequences, tiny_llama
from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe.batching import make_plan
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.dataset import PlannedDataset, measure
from longalign.recipe.loss import weighted_loss

EXACT = {"weights_dtype": torch.float64}


def oracle(sequences, model=None):
    """(1/M) sum_i L_i / N_i (arXiv 2401.18058, Eq. 2): one sequence at a time, stock attention, no weights."""
    model, means = model or tiny_llama(attention="sdpa"), []
    for sequence in sequences:
        labels = torch.tensor(sequence["labels"])[1:]
        if (labels != IGNORE_INDEX).any():
            logits = model(torch.tensor(sequence["input_ids"])[None], use_cache=False).logits[0, :-1]
            means.append(F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX))
    if means:
        torch.stack(means).mean().backward()
    return float(sum(mean.item() for mean in means) / max(len(means), 1)), gradients(model)


def case(method="packing", *, lengths, seed=0, without_targets=(), ranks=1, accumulation=1, rows=1):
    """(sequences, plan) of random sequences; packs hold at most 24 tokens."""
    sequences = random_sequences(lengths, seed=seed, without_targets=without_targets)
    measured, target_counts = measure(sequences)
    options = {"ranks": ranks, "accumulation": accumulation, "rows": rows, "seed": seed}
    plan = make_plan(method, measured, target_counts=target_counts, capacity=24, **options)
    return sequences, plan


def collator(plan):
    return (PackedCollator if plan.method == "packing" else PaddedCollator)(0, **EXACT)


def steps_in_one_process(sequences, plan, *, reweigh=None, **weighting):
    """(loss, gradients) of each optimizer step: the plain sum over all its micro-batches and ranks."""
    dataset, collate, model = PlannedDataset(sequences, [plan], **weighting), collator(plan), tiny_llama()
    for start in range(0, len(dataset), dataset.per_step):
        model.zero_grad()
        micro_batches = [dataset[index] for index in range(start, start + dataset.per_step)]
        if reweigh:
            micro_batches = [reweigh(micro_batch) for micro_batch in micro_batches]
        losses = [weighted_loss(model, collate([micro_batch])) for micro_batch in micro_batches]
        torch.stack(losses).sum().backward()
        yield sum(loss.item() for loss in losses), gradients(model)


GRID = [
    *({"accumulation": accumulation, "rows": rows} for accumulation, rows in itertools.product((1, 3, 12), (1, 2))),
    {"method": "naive", "accumulation": 3, "rows": 2},
    {"method": "sorted", "accumulation": 3, "rows": 2},
]
LENGTHS = [1, 13, 24, 2, 7, 9, 3, 21, 5, 5, 11, 4, 17, 2, 8, 6, 23]


def run_grid(rank, world_size, port, folder):
    """One real rank: every case of GRID through DDP; rank 0 saves (loss, gradients) of each step.

    The ranks meet at the store that listens on `port`. A rank that hangs says where, and ends with exit code 1.
    """
    faulthandler.dump_traceback_later(100, exit=True)
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    results = []
    for options in GRID:
        sequences, plan = case(lengths=LENGTHS, without_targets=(3, 10), ranks=world_size, **options)
        model = torch.nn.parallel.DistributedDataParallel(tiny_llama())
        dataset, collate = PlannedDataset(sequences, [plan], rank=rank), collator(plan)
        for start in range(0, len(dataset), plan.accumulation):
            model.zero_grad()
            total = torch.zeros((), dtype=torch.float64)
            for micro_step in range(plan.accumulation):
                model.require_backward_grad_sync = micro_step == plan.accumulation - 1
                loss = weighted_loss(model, collate([dataset[start + micro_step]]))
                # DDP takes the mean over ranks of what is a sum over ranks.
                (loss * world_size).backward()
                total += loss.detach()
            dist.all_reduce(total)
            results.append((total.item(), gradients(model.module)))
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    # Nothing is destroyed after this: the process ends here, and a rank that took its group down while others were
    # still at it hung once in some hundreds of runs.
    dist.barrier()
