"""What is told of a loss that is not finite: the items that are at fault."""

import math

import torch
import torch.distributed as dist

from schemas.config import PartConfig
from tasks.train.data import Item
from tasks.train.losses import LOSSES
from tasks.train.worker import Worker

MOST = 8  # items that a message names


def culprits(worker: Worker, name: str, items: list[Item], step: int, part: PartConfig) -> str:
    """The items of the global batch whose own loss is not finite, in words; all workers must ask.

    Args:
        worker: this process.
        name: the part that trains.
        items: this worker's share of the global batch.
        step: from 0.
        part: how it trains.
    """
    own = []
    with torch.no_grad():
        for item in items:
            # Every worker has as many items, and so waits for the others as often.
            losses = [float(loss) for loss in LOSSES[name](worker, [item], step, part)]
            if not all(map(math.isfinite, losses)):
                own.append(item.sample_id)
    worker.meter.counts = {}
    found, batch = of_all(own), of_all([item.sample_id for item in items])
    if len(found) == len(batch) > 1:
        return "look at what came before: no row of this batch has a finite loss with these weights"
    if found:
        return f"look at the rows whose own loss is not finite: {_named(found)}"
    return f"look at the rows of this batch, of which none is at fault alone: {_named(batch)}"


def _named(ids: list[str]) -> str:
    more = f" and {len(ids) - MOST} more" if len(ids) > MOST else ""
    return ", ".join(ids[:MOST]) + more


def of_all(names: list[str]) -> list[str]:
    """All workers' names, by rank; all must ask."""
    if not dist.is_initialized():
        return names
    gathered: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, names)
    return [name for one in gathered for name in one]
