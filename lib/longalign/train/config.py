"""How a model is trained on a token store, as plain data: what a profile says of every training, and one training."""

from dataclasses import dataclass, fields
from typing import Any

from longalign.recipe.weights import stages

SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup")
"""Of the learning rate; "constant" alone has no warm-up, and is refused with one."""


@dataclass(frozen=True)
class TrainingSettings:
    """What the trainings of a profile share: `rows` padded sequences are a micro-batch, `micro_batches_per_step` of
    these, on all ranks together, an optimizer step; `capacity` is tokens a pack, `exponent` that of the weights."""

    epochs: int = 1
    learning_rate: float = 3e-3
    schedule: str = "cosine"
    warmup_ratio: float = 0.03
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    capacity: int = 1024
    rows: int = 1
    micro_batches_per_step: int = 1
    exponent: float = 0.0
    packing_algorithm: str = "next_fit"
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        if self.schedule == "constant" and self.warmup_ratio:
            raise ValueError(f"schedule constant has no warm-up, and warmup_ratio is {self.warmup_ratio}: set "
                             "warmup_ratio to 0, or take constant_with_warmup")  # fmt: skip

    def shared(self) -> dict[str, Any]:
        """The fields of this class by name, also of a class that adds to them."""
        return {field.name: getattr(self, field.name) for field in fields(TrainingSettings)}

    def accumulation(self, ranks: int) -> int:
        """Micro-steps of each rank in an optimizer step. Raises ValueError when they do not come out even.

        >>> TrainingSettings(micro_batches_per_step=6).accumulation(ranks=2)
        3
        """
        if self.micro_batches_per_step % ranks:
            raise ValueError(
                f"micro_batches_per_step is {self.micro_batches_per_step}, and {ranks} ranks cannot share these "
                f"evenly: make it a multiple of {ranks}"
            )
        return self.micro_batches_per_step // ranks


@dataclass(frozen=True)
class TrainingConfig(TrainingSettings):
    """How a model is trained on a token store, with the fields of `TrainingSettings`.

    For packing, `rows` is packs a micro-batch. `steps` ends training after that many optimizer steps (0: all of the
    epochs; the learning rate's schedule ends with it). `snapshots` is how many models are kept on the way, evenly
    spaced, the last one included. `defect` names a fault of the released code to train with
    (`longalign.train.released_faults`). `group_size` is sequences of about one length for sorted batching (0: as many
    as `rows`, on any number of ranks). `lora_rank` is that of the matrices which are trained in place of the weights
    (`longalign.train.lora`; 0: all weights are trained). `balance` names how packs are dealt by what their attention
    costs (`longalign.recipe.balance`; "": as they come). `weighting` is a name or a schedule, such as
    [[0, token], [0.8, sequence]] (`longalign.recipe.weights.stages`). Raises ValueError for one that is neither.
    """

    method: str = "packing"
    weighting: str | tuple[tuple[float, str], ...] = "sequence"
    max_grad_norm: float = 1.0
    group_size: int = 0
    seed: int = 0
    steps: int = 0
    snapshots: int = 0
    defect: str = ""
    lora_rank: int = 0
    balance: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if [name for _, name in stages(self.weighting)] != ["sequence"] and self.exponent:
            raise ValueError("exponent belongs to the weighting sequence alone; leave it out for another or several")
