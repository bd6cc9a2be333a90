"""Over how many devices a training is spread, and what of it each of them holds: typed, checked, then DeepSpeed's JSON.

ZeRO (arXiv 1910.02054) deals the optimizer's states (stage 1), the gradients too (2) and the parameters too (3) to the
ranks; offload keeps them in the nodes' memory. None of it changes what is computed. Without a stage a run is one plain
process, or data-parallel by torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OFFLOADS = ("none", "optimizer", "all")


@dataclass(frozen=True)
class Parallelism:
    """`nodes` machines of `ranks` processes, a device each.

    `zero` is DeepSpeed's stage, 0 to 3; None takes no DeepSpeed. `offload` puts the optimizer's states ("optimizer",
    from stage 1 on) or the parameters too ("all", stage 3) into the nodes' memory. `bf16` computes in bfloat16 with
    fp32 states. `gradient_checkpointing` keeps one activation a layer and computes the others twice. As many
    neighbouring ranks as `sequence_parallel` says share every pack, a slice each (`longalign.train.sequence_parallel`);
    with `share_above` those of sequences of more tokens alone (`longalign.recipe.mixed`), and the capacity is a rank's.
    `hostfile` names the nodes where no Slurm does, DeepSpeed's way: a line "node1 slots=8" for each.

    Raises ValueError for what cannot be.

    >>> Parallelism(nodes=2, ranks=4, zero=3).world_size
    8
    """

    nodes: int = 1
    ranks: int = 1
    zero: int | None = None
    offload: str = "none"
    bf16: bool = False
    gradient_checkpointing: bool = False
    sequence_parallel: int = 1
    share_above: int | None = None
    hostfile: str = ""

    def __post_init__(self) -> None:
        for holds, message in (
            (min(self.nodes, self.ranks) >= 1, f"nodes are {self.nodes}, ranks {self.ranks}; both must be at least 1"),
            (self.zero in (None, 0, 1, 2, 3), f"zero is {self.zero}; ZeRO has the stages 0, 1, 2 and 3"),
            (self.offload in OFFLOADS, f"offload is {self.offload!r}; it is one of {', '.join(OFFLOADS)}"),
            (self.offload != "optimizer" or (self.zero or 0) >= 1, "offload of the optimizer needs zero: 1, 2 or 3"),
            (self.offload != "all" or self.zero == 3, "offload of all needs zero: 3"),
            (self.sequence_parallel >= 1 and self.ranks % self.sequence_parallel == 0,
             f"sequence_parallel is {self.sequence_parallel}, which does not divide a node's {self.ranks} ranks"),
            (self.sequence_parallel == 1 or self.zero is not None, "sequence_parallel needs zero: 0, 1, 2 or 3"),
            (self.share_above is None or self.sequence_parallel > 1,
             f"share_above is {self.share_above}: say in sequence_parallel how many ranks share a longer sequence"),
            (not self.hostfile or Path(self.hostfile).is_file(), f"hostfile is {self.hostfile}, where there is none"),
            (not self.hostfile or self.nodes > 1, "a hostfile is for several nodes: set nodes, or leave it out"),
        ):
            if not holds:
                raise ValueError(message)

    @property
    def world_size(self) -> int:
        """Processes in all, each with one device."""
        return self.nodes * self.ranks

    @property
    def barrier(self) -> str:
        """Where ranks wait for each other: see `barrier_of`."""
        return barrier_of(self.zero)

    @property
    def slices(self) -> int:
        """Ranks that divide every micro-batch of a plan; 1 where some are shared and others are not."""
        return self.sequence_parallel if self.share_above is None else 1

    @property
    def batches(self) -> int:
        """Micro-batches that a plan has at the same time: one a rank, or one for all ranks that share every pack.

        >>> Parallelism(ranks=8, zero=3, sequence_parallel=4).batches
        2
        """
        return self.world_size // self.slices

    @property
    def mixed(self) -> dict[str, int]:
        """The arguments of `longalign.recipe.batching.make_plan` that say which packs are shared; none where all are.

        >>> Parallelism(ranks=8, zero=3, sequence_parallel=4, share_above=9).mixed
        {'share_above': 9, 'degree': 4}
        """
        return {} if self.share_above is None else {"share_above": self.share_above, "degree": self.sequence_parallel}

    def run_settings(self) -> dict[str, Any]:
        """The fields as `runs.Run` takes them: none where it is one plain process.

        >>> Parallelism().run_settings()
        {}
        """
        return asdict(self) if self != ONE_PROCESS else {}


ONE_PROCESS = Parallelism()


def barrier_of(zero: int | None) -> str:
    """Where the ranks of a stage of ZeRO wait for each other: in every "micro_step", or at the end of a "step".

    Stage 2 keeps a part of the gradients alone, so that DeepSpeed adds them up over the ranks in every micro-step;
    stage 3 gathers the weights of each layer, too. All ranks do so equally often: who has a filler, or a shorter pack,
    waits. (Two ranks that sleep by turns take one rank's sleep in stages 0 and 1, and both sleeps in stages 2 and 3.)

    >>> barrier_of(1), barrier_of(2)
    ('step', 'micro_step')
    """
    return "micro_step" if (zero or 0) >= 2 else "step"


def deepspeed_config(
    engine: Parallelism, *, accumulation: int, max_grad_norm: float, universal: bool = False
) -> dict[str, Any]:
    """DeepSpeed's JSON, every value written out. A micro-batch is one element of a plan, whatever its rows.

    The optimizer is torch's AdamW, offloaded or not, so that no kernel has to be compiled and every stage takes the
    same steps; an offloaded step is slower than with DeepSpeed's own. `universal` goes on from a
    checkpoint of other ranks that was put together (`longalign.train.checkpoints`).

    Raises ValueError without a stage.

    >>> config = deepspeed_config(Parallelism(ranks=8, zero=2), accumulation=3, max_grad_norm=1.0)
    >>> config["train_batch_size"], config["zero_optimization"]["stage"]
    (24, 2)
    """
    if engine.zero is None:
        raise ValueError("without zero there is no DeepSpeed to configure; set zero: 0, 1, 2 or 3")
    zero: dict[str, Any] = {"stage": engine.zero}
    if engine.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if engine.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    if engine.zero == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": accumulation,
        "train_batch_size": engine.world_size * accumulation, "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": engine.bf16}, "fp16": {"enabled": False}, "zero_optimization": zero,
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
        "checkpoint": {"load_universal": universal}, "steps_per_print": 1_000_000_000,
    }  # fmt: skip


def skip_compiled_operations() -> None:
    """Call before DeepSpeed starts: on CPUs it would compile a shared-memory operation for minutes, and gloo serves."""
    import deepspeed.ops
    import torch

    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def set_rank_environment() -> None:
    """Call when torch's ranks have met and before a model is loaded: DeepSpeed deals it to the ranks it knows of."""
    import deepspeed.comm
    import torch

    if torch.distributed.is_initialized():
        deepspeed.comm.init_distributed(torch.distributed.get_backend())
