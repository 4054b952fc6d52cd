"""Checkpoints of a running stage, and at its end the model in its published form.

A checkpoint holds all trainable weights of the stage, the optimizer state of the part that runs,
the losses and the rows so far, and after the last step `model/`: what the artifact will be. Its
last file names all others with their hashes. It is handed to Ray Train, which copies it into the
run's folder while the steps go on, and makes it known when all of it is there.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.checkpoint import as_language, language_weights
from model.lora import lora_parameters
from model.tensors import copy_tensors, read_tensors, whole, write_tensors
from model.training_state import PARAMETER, TrainingState, load_state, save_state, state_tensors
from schemas.errors import StorageError, TrainingError
from tasks.base_model import FOLDER
from tasks.train.job import CURVE, ORDER
from tasks.train.publish import publish
from tasks.train.seal import damage, seal
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
log = logging.getLogger(__name__)


def restore(worker: Worker) -> TrainingState | None:
    """Put the latest sound checkpoint's weights, losses and rows into place; None without any.

    Raises:
        StorageError: there are checkpoints, and none is sound.
        TrainingError: the checkpoint is of other data, workers or devices.
    """
    import ray.train

    newest = ray.train.get_checkpoint()
    if newest is None:
        return None
    # The newest is the last of them, unless its worker group has died since.
    older = [one.checkpoint for one in ray.train.get_all_reported_checkpoints()]
    for checkpoint in [newest, *(c for c in reversed(older) if c.path != newest.path)]:
        with checkpoint.as_directory() as folder:
            if why := damage(Path(folder)):
                log.warning("checkpoint %s is left out: %s", checkpoint.path, why)
                continue
            state = read_checkpoint(worker, Path(folder))
        worker.checkpoint = checkpoint
        _agreed(state)
        return state
    raise StorageError(
        f"no checkpoint of this training is sound: delete the folder {Path(newest.path).parent} "
        "and run the same command again, which then begins from the stage's start"
    )


def read_checkpoint(worker: Worker, folder: Path) -> TrainingState:
    """Put a sound checkpoint's weights, losses and rows into place.

    Raises:
        StorageError: files that do not fit.
        TrainingError: it is of other data, of another number of workers, or of other devices.
    """
    state = TrainingState.model_validate_json((folder / STATE / "state.json").read_bytes())
    # Checkpoints of earlier releases name no device.
    noted = ((key, state.note.get(key, now), now) for key, now in _note(worker).items())
    if told := [f"{key} {then}, now {now}" for key, then, now in noted if then != now]:
        raise TrainingError(
            f"the checkpoint {folder.name} was written for other data, workers or "
            f"devices ({'; '.join(told)}): going on would repeat and skip items, or end with other "
            "numbers. Bring them back, or delete the run's folder"
        )
    weights = read_tensors(folder / WEIGHTS)
    wanted = _weights(worker)
    if "full" in worker.job.config.parts:
        wanted |= language_weights(worker.model)
    copy_tensors(weights, wanted, where=folder / WEIGHTS)
    worker.losses[:] = pq.read_table(folder / CURVE).to_pylist()
    worker.order = pq.read_table(folder / ORDER)
    worker.model.unrepeatable |= set(state.note.get("unrepeatable", ()))
    return state


def restore_optimizer(
    worker: Worker, parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> TrainingState:
    """Put the restored checkpoint's parameters and moments of the running part into place."""
    with worker.checkpoint.as_directory() as folder:
        return load_state(Path(folder) / STATE, parameters, optimizer)


def report_checkpoint(  # noqa: PLR0913 - what a checkpoint holds
    worker: Worker,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    state: TrainingState,
    *,
    metrics: dict[str, Any],
    now: bool = False,
) -> None:
    """Hand a checkpoint to Ray Train; every rank must call this, rank 0 writes.

    The copy into the run's folder goes on beside the next steps, but `now` and after the last step.
    """
    import ray.train
    from ray.train import CheckpointUploadMode as Mode

    worker.gather_order()
    tensors = whole(state_tensors(parameters, optimizer), keep=worker.rank == 0)
    if worker.rank != 0:
        ray.train.report(metrics)
        return
    # Deleted by Ray when it is copied.
    path = Path(tempfile.mkdtemp(prefix="psavlm-checkpoint-"))
    write_checkpoint(worker, path, tensors, state)
    ray.train.report(
        metrics,
        checkpoint=ray.train.Checkpoint.from_directory(path),
        checkpoint_upload_mode=Mode.SYNC if now or worker.is_last(state) else Mode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


def write_checkpoint(
    worker: Worker,
    folder: Path,
    tensors: dict[str, Tensor],
    state: TrainingState,
) -> None:
    """All files of a checkpoint, and last the one that names them.

    Args:
        worker: rank 0.
        folder: an empty one.
        tensors: whole parameters and moments of the part that runs (`state_tensors`).
        state: where it stands.
    """
    note = {**_note(worker), "unrepeatable": sorted(worker.model.unrepeatable)}
    state = TrainingState.model_validate({**dict(state), "note": note})
    language = _language(worker, tensors)
    write_tensors(folder / WEIGHTS, _weights(worker) | language)
    save_state(folder / STATE, tensors, state)
    pq.write_table(pa.Table.from_pylist(worker.losses, schema=POINTS), folder / CURVE)
    pq.write_table(worker.order, folder / ORDER)
    if worker.is_last(state):
        publish(worker, folder / FOLDER, language)
    seal(folder)


def _note(worker: Worker) -> dict[str, Any]:
    """What a checkpoint is good for, beside stage, part and step."""
    device = worker.model.backbone.device.type
    return {"data": worker.data.digest, "workers": worker.world, "device": device}


def _agreed(state: TrainingState) -> None:
    """All workers must go on from one step: one that read another copy would ruin the sums."""
    if not dist.is_initialized():
        return
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, (state.part, state.step))
    if len(set(found)) > 1:
        raise StorageError(
            f"the workers read checkpoints of different steps ({found}): one of them cannot read "
            "the newest one; look at the storage of the run's folder, and run the command again"
        )


def _weights(worker: Worker) -> dict[str, Tensor]:
    model = worker.model
    weights = {f"safety.{n}": t for n, t in model.safety.state_dict().items()}
    return {**weights, **lora_parameters(model.backbone)}


def _language(worker: Worker, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base's own weights that `full` has trained, whole; none where another part trains."""
    if "full" not in worker.job.config.parts:
        return {}
    found = {n.removeprefix(PARAMETER): t for n, t in tensors.items() if n.startswith(PARAMETER)}
    return as_language(found)
