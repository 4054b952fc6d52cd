"""The loop that every Ray Train worker runs: parts in order, steps, checkpoints, one loss each.

A step is a pure function of (parameters, optimizer state, step number): batches come from the
plan, dropout from a seed per step. So a killed run that resumes ends with the same bits.
"""

import math
import time
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from model.stages import freeze_for
from model.steps import apply_gradients, new_optimizer, seed_step
from model.training_state import TrainingState, allocate_moments
from schemas.config import PartConfig
from schemas.taxonomy import CLEAN
from tasks.train.data import Item
from tasks.train.faults import culprits, of_all
from tasks.train.job import DONE, STOPPED, Job
from tasks.train.losses import LOSSES
from tasks.train.meter import COUNTED
from tasks.train.rehearsal import rehearse, too_large
from tasks.train.repeat import UnrepeatableError, repeatably, strictly, unable
from tasks.train.saving import report_checkpoint, restore, restore_optimizer
from tasks.train.worker import Worker, open_worker


def train_loop(settings: dict[str, Any]) -> str:
    """Train the parts of one stage from where the last checkpoint stands to the end.

    Returns:
        DONE, or STOPPED where it was asked to stop and has written a checkpoint first.
    """
    worker = open_worker(Job.model_validate(settings))
    state = restore(worker)
    names = list(worker.job.config.parts)
    first = names.index(state.part) if state else 0
    for name in names[first:]:
        if _train_part(worker, name, resumed=state if state and state.part == name else None):
            return STOPPED
    return DONE


def _train_part(worker: Worker, name: str, *, resumed: TrainingState | None) -> bool:
    """Returns whether it was stopped before the stage's last step."""
    config = worker.job.config
    part = config.parts[name]
    trained = set(freeze_for(worker.model, config.stage, name))
    parameters = {n: p for n, p in worker.model.named_parameters() if n in trained}
    optimizer = new_optimizer(list(parameters.values()), part)
    start = 0
    if resumed is not None:
        start = restore_optimizer(worker, parameters, optimizer).step
    else:
        allocate_moments(optimizer)  # the rehearsal must have no more room than the steps
    worker.model.train()
    # A backward pass that ends in its middle leaves shards where no other step can begin.
    worker.strict = config.shard == "none"
    if start < part.steps:
        whole = partial(rehearse, worker, name, part, partial(backward, worker, name))
        repeatably(worker, whole)
    for step in range(start, part.steps):
        one = partial(_step, worker, name, step, part, optimizer)
        point, asked = repeatably(worker, one)
        state = TrainingState(stage=config.stage, part=name, step=step + 1)
        stopped = asked and not worker.is_last(state)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == part.steps or stopped:
            told = {**point, **worker.reporter.figures}
            report_checkpoint(worker, parameters, optimizer, state, metrics=told, now=stopped)
        if stopped:
            worker.reporter.stopped(point)
            return True
    return False


def _step(
    worker: Worker, name: str, step: int, part: PartConfig, optimizer: torch.optim.AdamW
) -> tuple[dict[str, Any], bool]:
    """One optimizer step, noted and told; its point of the curve, and whether it is to be the last.

    Raises:
        TrainingError: the loss or the gradient is not finite, or it does not fit into memory.
        UnrepeatableError: as `backward`.
    """
    began = time.perf_counter()
    seed_step(worker.job.config.seed, step, worker.rank)
    with worker.meter.waiting():
        items = worker.items(step, part)
    optimizer.zero_grad(set_to_none=True)
    blame = partial(culprits, worker, name, items, step, part)
    try:
        sums = backward(worker, name, items, step, part)
        done = apply_gradients(sums["loss"], optimizer, step=step, part=part, blame=blame)
    except torch.OutOfMemoryError as error:
        where = f"at step {step + 1}, though its longest batch did"
        raise too_large(name, part.micro_batch or len(items), where, error) from error
    point = {"part": name, "step": step + 1, "loss": done.loss, "lr": done.rate}
    point |= {"gradient_norm": done.gradient_norm}
    worker.note(point, items)
    seconds = time.perf_counter() - began
    worker.reporter.step(point, sums, part, worker.meter, seconds=seconds)
    return point, sums["stop"] > 0


def backward(
    worker: Worker, name: str, items: list[Item], step: int, part: PartConfig
) -> dict[str, float]:
    """Gradients of the global batch, the same on all workers; returns its counts (COUNTED).

    Args:
        worker: this process.
        name: the part that trains; exactly its parameters ask for gradients.
        items: this worker's share of the global batch.
        step: from 0.
        part: how it trains.

    Raises:
        UnrepeatableError: the worker is strict, and some worker met an operation that does not
            repeat; on all workers, after the collective that they wait for.
    """
    device = worker.model.backbone.device
    loss = torch.zeros((), device=device)
    met = []
    try:
        with strictly(worker.strict):
            for share in LOSSES[name](worker, items, step, part):
                share.backward()
                loss += share.detach()
    except RuntimeError as error:
        met = [unable(error)]
        loss += math.nan
    types = worker.job.taxonomy.type_ids
    clean = sum(types[item.risk_type] == CLEAN for item in items)
    worker.meter.add(loss=loss, clean=clean, risky=len(items) - clean)
    worker.meter.add(stop=float(worker.reporter.asked_to_stop()))
    trained = [p for p in worker.model.parameters() if p.requires_grad]
    sums = dict(zip(COUNTED, _summed(worker, trained), strict=True))
    if worker.strict and not math.isfinite(sums["loss"]) and (found := of_all(met)):
        raise UnrepeatableError(found[0])
    return sums


def _summed(worker: Worker, parameters: list[nn.Parameter]) -> list[float]:
    """The workers' counts and gradients, summed in one collective; gradients are left in place.

    Those of shards are sums already.
    """
    parameters = [p for p in parameters if not isinstance(p, DTensor)]
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    counts = worker.meter.take()
    flat = torch.cat([counts, *(g.reshape(-1) for g in gradients)])
    if dist.is_initialized():
        dist.all_reduce(flat)
    sizes = [p.numel() for p in parameters]
    for parameter, gradient in zip(parameters, flat[len(counts) :].split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)
    found: list[float] = flat[: len(counts)].tolist()
    return found
