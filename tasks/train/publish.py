"""The model that a stage ends with, in its published form, its guard calibrated."""

from collections.abc import Mapping
from pathlib import Path

import torch

from infra.store import Store
from model.calibration import fit_policy
from model.checkpoint import BaseReference, load_card, save_model
from model.policy import GuardPolicy
from schemas.config import TrainConfig
from tasks.base_model import FOLDER, known_as
from tasks.train.data import calibration_items
from tasks.train.worker import Worker


def publish(
    worker: Worker, folder: Path, language: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write `model/` of the stage's artifact; later stages keep the guard of the first.

    `language` as for `save_model`.
    """
    job = worker.job
    store = Store(job.root)
    if job.inputs.start is not None:
        policy = load_card(store.local(job.inputs.start) / FOLDER).policy
    elif worker.model.has_head:
        policy = calibrate(worker, store)
    else:
        policy = GuardPolicy()
    name, revision = known_as(store, job.inputs.base)
    save_model(
        folder,
        worker.model,
        stage=job.config.stage,
        method=job.config.method,
        taxonomy=job.taxonomy,
        hints=job.hints,
        base=BaseReference(name=name, revision=revision),
        policy=policy,
        language=language,
    )


@torch.no_grad()
def calibrate(worker: Worker, store: Store) -> GuardPolicy:
    """Temperatures and threshold from the calibration split, which no part has trained on.

    In float32 also where training is not: so the guard judges, and its threshold is on that scale.
    """
    worker.model.eval()
    labelled, job = store.local(worker.job.inputs.labelled), worker.job
    items = calibration_items(labelled, job.taxonomy, held_out=job.config.held_out)
    size, logits = calibration_batch(job.config), []
    for first in range(0, len(items), size):
        batch = items[first : first + size]
        features = worker.data.images(batch)
        logits.append(worker.model.concept_logits(features, [item.question for item in batch]))
    types, levels = (torch.cat(column).cpu() for column in zip(*logits, strict=True))
    return fit_policy(
        types,
        levels,
        torch.tensor([item.risk_type for item in items]),
        torch.tensor([item.risk_level for item in items]),
        false_positive_budget=worker.job.config.false_positive_budget,
        rule=worker.job.config.method.threshold,
        images=[str(item.image_id) for item in items],
    )


def calibration_batch(config: TrainConfig) -> int:
    """Items that are judged at a time: as many as go through the part that trains the head.

    They fit: training them takes more, since it keeps what the backward pass needs.
    """
    part = config.parts.get("concept") or next(iter(config.parts.values()))
    return part.micro_batch or part.global_batch // config.workers
