"""The longest batch of a part once, before its first step: what cannot work fails in seconds.

Nothing is kept of it but what it costs: the operations of a position, and the device's own rate.
"""

import math
from collections.abc import Callable

import torch

from model.flops import Flops
from model.steps import seed_step
from schemas.config import PartConfig
from schemas.errors import TrainingError
from tasks.train.data import Item
from tasks.train.faults import culprits
from tasks.train.meter import peak_rate
from tasks.train.worker import Worker

Backward = Callable[[list[Item], int, PartConfig], dict[str, float]]


def rehearse(worker: Worker, name: str, part: PartConfig, backward: Backward) -> None:
    """Forward and backward of the batch with this worker's longest item; no optimizer step.

    Args:
        worker: this process.
        name: the part that will train.
        part: how.
        backward: leaves gradients in place, and returns the batch's counts.

    Raises:
        TrainingError: the batch does not fit into memory, or its loss is not finite.
    """
    step = worker.data.longest(part.steps, part.global_batch, worker.rank, worker.world)
    items = worker.items(step, part)
    seed_step(worker.job.config.seed, step, worker.rank)
    try:
        with Flops() as counter:
            sums = backward(items, step, part)
    except torch.OutOfMemoryError as error:
        where = f"in its longest batch, that of step {step + 1}"
        raise too_large(name, part.micro_batch or len(items), where, error) from error
    for parameter in worker.model.parameters():
        parameter.grad = None
    if not math.isfinite(sums["loss"]):
        told = culprits(worker, name, items, step, part)
        raise TrainingError(
            f"part {name!r}: the loss is {sums['loss']} before the first step, in its longest "
            f"batch: {told}"
        )
    worker.meter.waited = 0.0
    if worker.rank == 0:
        _count(worker, counter, sums)


def too_large(name: str, size: int, where: str, error: Exception) -> TrainingError:
    """What is told of a part whose step does not fit into memory with `size` items at a time."""
    fewer = f"parts.{name}.micro_batch below {size}, " if size > 1 else ""
    return TrainingError(
        f"part {name!r} does not fit into the device's memory with {size} items at a time {where}. "
        f'Set {fewer}recompute = "cheap" or "all", or precision = "bf16"; if other programs have '
        f"taken the memory, end them and run the same command again ({error})"
    )


def _count(worker: Worker, counter: Flops, sums: dict[str, float]) -> None:
    """What is counted is this worker's own; positions are those of all workers."""
    own = max(sums["padded"] / worker.world, 1.0)
    worker.meter.workers = worker.world
    worker.meter.flops = counter.get_total_flops() / own
    if not worker.meter.peak:
        half = worker.job.config.precision == "bf16"
        kind = torch.bfloat16 if half else torch.float32
        worker.meter.peak = peak_rate(worker.model.backbone.device, kind)
