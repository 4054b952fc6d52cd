"""The loop that every Ray Train worker runs: parts in order, steps, checkpoints, one loss each.

A step is a pure function of (parameters, optimizer state, step number): batches come from the
plan, dropout from a seed per step. So a killed run that resumes ends with the same bits.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.checkpoint import TrainingState
from model.stages import freeze_for
from model.steps import apply_gradients, new_optimizer, seed_step
from schemas.config import PartConfig
from tasks.train.data import Item
from tasks.train.job import Job
from tasks.train.saving import report_checkpoint, restore, restore_optimizer
from tasks.train.showing import prompt_of
from tasks.train.worker import Worker, open_worker


def train_loop(settings: dict[str, Any]) -> None:
    """Train the parts of one stage from where the last checkpoint stands to the end."""
    worker = open_worker(Job.model_validate(settings))
    state = restore(worker)
    names = list(worker.job.config.parts)
    first = names.index(state.part) if state else 0
    for name in names[first:]:
        _train_part(worker, name, resumed=state if state and state.part == name else None)


def _train_part(worker: Worker, name: str, *, resumed: TrainingState | None) -> None:
    config = worker.job.config
    part = config.parts[name]
    trained = set(freeze_for(worker.model, config.stage, name))
    parameters = {n: p for n, p in worker.model.named_parameters() if n in trained}
    optimizer = new_optimizer(list(parameters.values()), part)
    start = 0
    if resumed is not None:
        start = restore_optimizer(parameters, optimizer).step
    worker.model.train()
    for step in range(start, part.steps):
        began = time.perf_counter()
        seed_step(config.seed, step, worker.rank)
        optimizer.zero_grad(set_to_none=True)
        loss = _backward(LOSSES[name](worker, step, part), list(parameters.values()))
        done = apply_gradients(loss, optimizer, step=step, part=part)
        point = {"part": name, "step": step + 1, "loss": loss, "lr": done.rate}
        point |= {"gradient_norm": done.gradient_norm}
        worker.losses.append(point)
        rate = worker.reporter.step(name, step + 1, part, loss, time.perf_counter() - began)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == part.steps:
            state = TrainingState(stage=config.stage, part=name, step=step + 1)
            metrics = {**point, "samples_per_s": rate}
            report_checkpoint(worker, parameters, optimizer, state, metrics=metrics)


def _backward(loss: Tensor, parameters: list[nn.Parameter]) -> float:
    """Gradients and loss summed over workers; each worker's loss is its share of the whole."""
    loss.backward()
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([loss.detach().reshape(1), *(g.reshape(-1) for g in gradients)])
    if dist.is_initialized():
        dist.all_reduce(flat)
    sizes = [p.numel() for p in parameters]
    for parameter, gradient in zip(parameters, flat[1:].split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)
    return float(flat[0])


def _total(counts: Tensor) -> Tensor:
    """Counts summed over all workers; 1 where nothing is counted, as they divide a sum of zeros."""
    total = counts.detach().float().clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return torch.where(total > 0, total, 1.0)


def _concept_loss(worker: Worker, step: int, part: PartConfig) -> Tensor:
    items = _items(worker, step, part)
    seen = [item for item in items if item.image_id is not None]
    device = worker.model.backbone.device
    if not seen:
        _total(torch.zeros(2, device=device))  # the others wait for this worker's counts
        return 0.0 * sum(p.sum() for p in worker.model.safety.parameters())
    (of_types, typed), (of_levels, levelled) = worker.model.concept_batch_sums(
        worker.data.images(seen),
        [item.question for item in seen],
        torch.tensor([item.risk_type for item in seen]),
        torch.tensor([item.risk_level for item in seen]),
        class_weights=worker.class_weights,
    )
    whole = _total(torch.stack([typed, levelled]))
    return worker.job.config.concept_weight * (of_types / whole[0] + of_levels / whole[1])


def _language_loss(worker: Worker, step: int, part: PartConfig) -> Tensor:
    items = _items(worker, step, part)
    seen = [item for item in items if item.image_id is not None]
    images = iter(worker.data.images(seen)) if seen else iter(())
    features = [None if item.image_id is None else next(images) for item in items]
    prompts = [prompt_of(worker, item, step, part) for item in items]
    total, count = worker.model.language_batch_sum(
        features, prompts, max_text_tokens=worker.job.config.max_text_tokens
    )
    return total / _total(count)


def _items(worker: Worker, step: int, part: PartConfig) -> list[Item]:
    return worker.data.batch(step, part.global_batch, worker.rank, worker.world)


LOSSES: dict[str, Callable[[Worker, int, PartConfig], Tensor]] = {
    "concept": _concept_loss,
    "tokens": _language_loss,
    "lora": _language_loss,
    "full": _language_loss,
}
