"""What the paper's trainings would cost on other GPUs: memory, hours and GPU hours, predicted and never measured.

Work comes from the packed plans of `longalign.experiments.paper_plan` over its assumed lengths, memory from
`longalign.train.memory`, both with the profile's engine. A device achieves a share of its data sheet's peak in bf16;
the share that fits the paper's own 23.4 hours on A800 is one end of the range, `CAREFUL` the other. Communication and
offloading are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from longalign.experiments import paper_plan
from longalign.experiments.profiles import Profile
from longalign.recipe.cost import A800
from longalign.train.memory import GIB, SPARE, footprint
from longalign.train.needs import largest_micro_batch

CAREFUL = 0.4
"""A share of the peak that long trainings often achieve; `longalign train --dry-run` takes it, too."""


@dataclass(frozen=True)
class Device:
    """A kind of GPU: dense TFLOP/s in bf16 with sums in fp32, GB of memory, and where its maker says so."""

    name: str
    tflops: float
    memory: int
    source: str


DEVICES = (
    Device("A100 or A800, 80 GB", A800, 80, "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/"
           "nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"),
    # the next two sheets print 1,979: sparse products, of which dense ones are half
    Device("H100 SXM, 80 GB", 989.4, 80, "https://resources.nvidia.com/en-us-tensor-core/"
           "nvidia-tensor-core-gpu-datasheet"),
    Device("H200 SXM, 141 GB", 989.4, 141, "https://www.nvidia.com/en-us/data-center/h200/"),
    Device("GeForce RTX 4090, 24 GB", 165.2, 24, "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/"
           "nvidia-ada-gpu-architecture.pdf"),
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """One training, packed, on the profile's devices: `memory` GB of each, and `node` GB of a machine's RAM.

    `shared` ranks work on each pack (sequence parallelism): as few as make it fit, or None where nothing does. `hours`
    are at the fitted share of the peak and at `CAREFUL`.
    """

    model: str
    device: Device
    shared: int | None
    memory: float
    node: float
    hours: tuple[float, float]


def costs(profile: Profile) -> tuple[float, list[Cost]]:
    """The fitted share of an A800's peak, and every model on every kind of device, in the order of `DEVICES`.

    Raises:
        ValueError: as `longalign.experiments.paper_plan.arms`.
    """

    @cache
    def work(shared: int) -> dict[str, tuple[float, float, float]]:
        return _work(replace(profile, engine=replace(profile.engine, sequence_parallel=shared)))

    (fitted,) = (model for model in paper_plan.MODELS if model.name == paper_plan.FITTED[0])
    share = work(1)[fitted.name][0] / (A800 * 1e12 * 3600 * fitted.hours[paper_plan.FITTED[1]])
    counts = [count for count in (1, 2, 4, 8) if profile.engine.ranks % count == 0]
    found = []
    for device in DEVICES:
        for model in work(1):
            fits = next((count for count in counts if work(count)[model][1] <= SPARE * device.memory), None)
            flops, memory, node = work(fits or counts[-1])[model]
            peak = device.tflops * 1e12 * 3600
            hours = (flops / peak / share, flops / peak / CAREFUL)
            found.append(Cost(model, device, fits, memory, node, hours))
    return share, found


def _work(profile: Profile) -> dict[str, tuple[float, float, float]]:
    """FLOPs of the slowest rank, GB of a device and GB of a machine's RAM, by model."""
    lengths, targets = paper_plan.assumed_lengths(profile.seed)
    plans = paper_plan.lay_out(profile, paper_plan.arms(profile)[0], lengths, targets, profile.seed)
    positions, most = largest_micro_batch(plans, plans[0].target_counts)
    found = {}
    for model in paper_plan.MODELS:
        needed = footprint(model.shape, profile.engine, positions=positions, targets=most)
        flops, _ = paper_plan.worked(plans, model, profile.engine)
        found[model.name] = (flops, needed.device * GIB / 1e9, needed.node * GIB / 1e9)
    return found
