"""Checkpoints of a running stage, and at its end the model in its published form.

A checkpoint holds all trainable weights of the stage, the optimizer state of the part that runs,
the losses so far, and after the last step `model/`: what the artifact will be.
"""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from infra.store import Store
from model.checkpoint import (
    BaseReference,
    TrainingState,
    language_weights,
    load_card,
    load_state,
    save_model,
    save_state,
)
from model.lora import lora_parameters
from model.policy import GuardPolicy, fit_policy
from model.tensors import copy_tensors, read_tensors, write_tensors
from tasks.base_model import FOLDER, known_as
from tasks.train.data import calibration_items
from tasks.train.job import CURVE
from tasks.train.worker import Worker

WEIGHTS, STATE = "weights.safetensors", "state"
POINTS = pa.schema(
    [
        ("part", pa.string()),
        ("step", pa.int32()),
        ("loss", pa.float64()),
        ("lr", pa.float64()),
        ("gradient_norm", pa.float64()),
    ]
)
CALIBRATION_BATCH = 256


def restore(worker: Worker) -> TrainingState | None:
    """Put the latest checkpoint's weights and losses into place; None where there is none."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        path = Path(folder)
        weights = read_tensors(path / WEIGHTS)
        copy_tensors(weights, _weights(worker), where=path / WEIGHTS)
        worker.losses[:] = pq.read_table(path / CURVE).to_pylist()
        return TrainingState.model_validate_json((path / STATE / "state.json").read_bytes())


def restore_optimizer(
    parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> TrainingState:
    """Put the latest checkpoint's parameters and moments of the running part into place."""
    import ray.train

    with ray.train.get_checkpoint().as_directory() as folder:
        return load_state(Path(folder) / STATE, parameters, optimizer)


def report_checkpoint(
    worker: Worker,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    state: TrainingState,
    *,
    metrics: dict[str, Any],
) -> None:
    """Hand a checkpoint to Ray Train; every rank must call this, rank 0 writes."""
    import ray.train

    if worker.rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_tensors(path / WEIGHTS, _weights(worker))
        save_state(path / STATE, parameters, optimizer, state)
        pq.write_table(pa.Table.from_pylist(worker.losses, schema=POINTS), path / CURVE)
        if worker.is_last(state):
            _publish(worker, path / FOLDER)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _weights(worker: Worker) -> dict[str, Tensor]:
    model = worker.model
    weights = {f"safety.{n}": t for n, t in model.safety.state_dict().items()}
    if "full" in worker.job.config.parts:
        weights |= language_weights(model)
    return {**weights, **lora_parameters(model.backbone)}


def _publish(worker: Worker, folder: Path) -> None:
    job = worker.job
    store = Store(job.root)
    if job.inputs.start is not None:
        policy = load_card(store.local(job.inputs.start) / FOLDER).policy
    elif worker.model.has_head:
        policy = _calibrate(worker, store)
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
    )


@torch.no_grad()
def _calibrate(worker: Worker, store: Store) -> GuardPolicy:
    """Temperatures and threshold from the calibration split, which no part has trained on."""
    worker.model.eval()
    labelled, job = store.local(worker.job.inputs.labelled), worker.job
    items = calibration_items(labelled, job.taxonomy, held_out=job.config.held_out)
    logits = []
    for first in range(0, len(items), CALIBRATION_BATCH):
        batch = items[first : first + CALIBRATION_BATCH]
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
    )
