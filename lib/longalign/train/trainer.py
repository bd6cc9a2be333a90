"""One training engine: Hugging Face's Trainer that follows a plan, so an optimizer step is exactly the loss its
weights state.

Since a plan is rectangular, every accumulation window is full and a run's epochs are one sequence of micro-batches.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from longalign.data.store import TokenStore
from longalign.recipe.batching import Plan, make_plan
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.cost import LLAMA_2_7B, SequenceCost
from longalign.recipe.dataset import PlannedDataset
from longalign.train import checkpoints, preflight
from longalign.train.callbacks import EventLog, PlanGuard, Preflight, Seal, Snapshots, StopOnNonFinite, StopOnWarning
from longalign.train.config import TrainingConfig
from longalign.train.models import sequence_cost
from longalign.train.parallelism import (
    ONE_PROCESS,
    Parallelism,
    barrier_of,
    deepspeed_config,
    set_rank_environment,
    skip_compiled_operations,
)
from longalign.train.plan_trainer import PlanTrainer


def make_plans(
    store: TokenStore, config: TrainingConfig, *, ranks: int = 1, cost: SequenceCost = LLAMA_2_7B,
    barrier: str = "step", **mixed: int,
) -> list[Plan]:  # fmt: skip
    """One plan per epoch, each reshuffled by (seed, epoch); the same sequences in every step on any number of ranks,
    but with steps of like costs ("compose") for ranks that wait in every micro-step.

    `mixed` is share_above and degree (`longalign.recipe.mixed`), or nothing. Where they are balanced, `cost` is what a
    sequence costs, and `barrier` where the ranks wait: at the end of a "step", or in every "micro_step". Raises
    ValueError when the ranks cannot share a step evenly.
    """
    special = {
        "packing": {"algorithm": config.packing_algorithm}, "sorted": {"group_size": config.group_size or config.rows},
    }.get(config.method, {})  # fmt: skip
    plans = [
        make_plan(
            config.method, store.lengths, target_counts=store.target_counts, capacity=config.capacity, ranks=ranks,
            rows=config.rows, accumulation=config.accumulation(ranks), seed=config.seed, epoch=epoch, **special,
            **mixed,
        )
        for epoch in range(config.epochs)
    ]  # fmt: skip
    if config.balance:
        from longalign.recipe import balance  # other runs' code is without it

        plans = [balance.balanced(plan, config.balance, cost=cost, barrier=barrier) for plan in plans]
    return plans


def train(
    model: PreTrainedModel,
    store: TokenStore,
    config: TrainingConfig,
    folder: Path | str,
    *,
    arguments: TrainingArguments | None = None,
    sequence_parallel: int = 1,
    share_above: int | None = None,
) -> PlanTrainer:
    """Train `model` on `store`, in place; checkpoints and `events.jsonl` go to `folder`, from which a killed run
    resumes.

    The same folder, data and configuration give the same losses whether or not the run was interrupted. `arguments` are
    those of an engine (`training_arguments`); under ZeRO-3 they must be made before the model. `sequence_parallel`
    ranks share every pack, or with `share_above` those of longer sequences. Before the first step the store's files are
    compared with their hashes, and the model is proved to be trained exactly (`longalign.train.preflight`). Raises
    ValueError for data, models or settings that cannot be trained with, InterruptedError when the process that started
    this one has gone, and, with a checkpoint of the last step, when the job around it is about to be ended
    (`paths.warned`).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    args = arguments or training_arguments(config, folder)
    if sequence_parallel > 1:
        _share_sequences(model, config, sequence_parallel)
    engine = getattr(args, "hf_deepspeed_config", None)
    barrier = barrier_of(engine.get_value("zero_optimization.stage") if engine else None)
    cost = sequence_cost(model.config) if config.balance else LLAMA_2_7B
    mixed = {} if share_above is None else {"share_above": share_above, "degree": sequence_parallel}
    slices = 1 if mixed else sequence_parallel  # of every micro-batch
    plans = make_plans(store, config, ranks=args.world_size // slices, cost=cost, barrier=barrier, **mixed)
    steps = [step for plan in plans for step in plan.steps][: config.steps or None]
    if not steps:
        raise ValueError(f"the token store {store.folder} holds no sequence; there is nothing to train on")
    if args.local_process_index == 0:
        store.verify()
    notes, longest = preflight.look(model, config.method, store)
    for note in notes if args.process_index == 0 else ():
        print(note)
    args.max_steps, args.gradient_accumulation_steps = len(steps), plans[0].accumulation
    args._n_gpu = min(args.n_gpu, 1)  # several GPUs take torchrun: DataParallel would cut the packs
    if config.lora_rank:
        from longalign.train import frozen_head, lora  # other runs' code is without it, as without the defects below

        lora.adapt(model, config.lora_rank, seed=config.seed)
        told = frozen_head.notes(model, store)
        for note in told if args.process_index == 0 else ():
            print(note)
    lengths = store.lengths
    log = EventLog(folder / "events.jsonl", [int(sum(lengths[i] for i in step.sequences)) for step in steps])
    pad = 0  # nobody reads what it computes, and a configuration may name an id that the model does not know
    options = {"exponent": config.exponent, "weighting": config.weighting, "steps": config.steps,
               "rank": args.process_index // slices}  # fmt: skip
    if config.defect:
        from longalign.train.released_faults import faulty_dataset

        dataset = faulty_dataset(config.defect, store, plans, **options)
    else:
        dataset = PlannedDataset(store, plans, **options)
    trainer = PlanTrainer(
        model,
        args=args,
        dataset=dataset,
        collator=(PackedCollator if config.method == "packing" else PaddedCollator)(pad),
        sequence_parallel=sequence_parallel,
    )
    if args.process_index == 0:
        checkpoints.drop_damaged(folder)
    if args.world_size > 1:
        _agree(store.sha256, *(plan.order_hash() for plan in plans))  # and all go on from the same checkpoint
    trainer.add_callback(Preflight(config.method, longest, {1, sequence_parallel} if mixed else {sequence_parallel}))
    trainer.add_callback(PlanGuard(dataset))
    trainer.add_callback(log)
    trainer.add_callback(StopOnNonFinite(steps))
    trainer.add_callback(Seal())
    trainer.add_callback(warned := StopOnWarning())
    trainer.add_callback(Snapshots(trainer, folder, len(steps), config.snapshots))
    checkpoint = checkpoints.newest(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if warned.stopped:
        step = f"step {trainer.state.global_step} of {len(steps)}"
        raise InterruptedError(f"training stopped at {step}: the time of this job is nearly over")
    return trainer


def _share_sequences(model: PreTrainedModel, config: TrainingConfig, ranks: int) -> None:
    from longalign.train.sequence_parallel import attach

    if config.method != "packing":
        raise ValueError(f"sequence_parallel is {ranks}, but ranks share packs alone: method {config.method} pads rows")
    attach(model, ranks)


def training_arguments(
    config: TrainingConfig, folder: Path | str, engine: Parallelism = ONE_PROCESS
) -> TrainingArguments:
    """The Trainer's arguments for a configuration on an engine.

    As long as they live, a model that is loaded under ZeRO-3 is dealt to the ranks at once. Raises ValueError when
    other ranks were started than DeepSpeed is to have.
    """
    deepspeed = {}
    if engine.zero is not None:
        skip_compiled_operations()
        deepspeed["deepspeed"] = deepspeed_config(
            engine, accumulation=config.accumulation(engine.batches), max_grad_norm=config.max_grad_norm,
            universal=checkpoints.is_universal(checkpoints.newest(Path(folder))),
        )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=1,
        gradient_accumulation_steps=config.accumulation(engine.batches),
        learning_rate=config.learning_rate, lr_scheduler_type=config.schedule,
        warmup_steps=_below_one(config.warmup_ratio), adam_beta1=config.beta1, adam_beta2=config.beta2,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm, optim="adamw_torch", seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps", save_steps=config.checkpoint_every, save_total_limit=2, logging_steps=1,
        logging_nan_inf_filter=False, report_to="none", disable_tqdm=True, remove_unused_columns=False,
        dataloader_pin_memory=False, average_tokens_across_devices=False, max_steps=1,
        bf16=engine.bf16, **({"gradient_checkpointing": True} if engine.gradient_checkpointing else {}), **deepspeed,
    )  # fmt: skip
    if engine.zero is not None:
        if arguments.world_size != engine.world_size:
            raise ValueError(f"the engine has {engine.world_size} ranks, but {arguments.world_size} were started")
        set_rank_environment()
    return arguments


def _agree(*mine: str) -> None:
    """Raises ValueError on every rank unless all of them have the same data and the same plans."""
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    others = [rank for rank, theirs in enumerate(everyone) if theirs != everyone[0]]
    if others:
        raise ValueError(
            f"rank {others[0]} has other data or another plan than rank 0 ({len(others)} of {len(everyone)} ranks "
            "differ): give all nodes the same token store and the same settings"
        )


def _below_one(ratio: float) -> float:
    # From 1 on, the Trainer reads the same field as a number of steps.
    if not 0 <= ratio < 1:
        raise ValueError(f"warmup_ratio is {ratio}; give a share of the steps, from 0 to below 1")
    return ratio
