"""Checkpoints of a running stage, and at its end the model in its published form.

A checkpoint holds all trainable weights of the stage, the optimizer state of the part that runs,
the losses and the rows so far, and after the last step `model/`: what the artifact will be. Its
last file names all others with their hashes.

The steps wait while its tensors are copied into memory of their own. It is written and hashed
beside the next steps, as a draft in this machine's temporary folder; Ray Train copies that into the
run's folder, and makes it known when all of it is there.
"""

import glob
import logging
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.disk import clear
from infra.process import alive, started
from model.checkpoint import as_language, language_weights
from model.lora import lora_parameters
from model.tensors import copy_tensors, read_tensors, whole, write_tensors
from model.training_state import (
    PARAMETER,
    TrainingState,
    load_state,
    read_state,
    save_state,
    state_tensors,
)
from schemas.errors import StorageError, TrainingError
from tasks.base_model import FOLDER
from tasks.train.job import CURVE, ORDER
from tasks.train.publish import publish
from tasks.train.seal import damage, seal
from tasks.train.worker import Worker

if TYPE_CHECKING:
    from ray.train import Checkpoint

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


class Snapshot(NamedTuple):
    """What a checkpoint holds, untouched by the steps that follow.

    `language` is what `full` trains of the base; `moments` are those of the part that runs.
    """

    weights: dict[str, Tensor]
    language: dict[str, Tensor]
    moments: dict[str, Tensor]
    losses: list[dict[str, Any]]
    order: pa.Table
    state: TrainingState


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
        _agreed(state)
        return state
    raise StorageError(
        f"no checkpoint of this training is sound: delete the folder {Path(newest.path).parent} "
        "and run the same command again, which then begins from the stage's start"
    )


def read_checkpoint(worker: Worker, folder: Path) -> TrainingState:
    """Put a sound checkpoint's weights, losses and rows into place; keep its moments for later.

    Raises:
        StorageError: files that do not fit.
        TrainingError: it is of other data, of another number of workers, or of other devices.
    """
    stored = read_state(folder / STATE)
    state = stored.state
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
    worker.stored = stored
    return state


def restore_optimizer(
    worker: Worker, parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> TrainingState:
    """Put the restored checkpoint's moments of the running part into place, and let go of them."""
    stored, worker.stored = worker.stored, None
    return load_state(stored, parameters, optimizer)


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

    That goes on beside the next steps, but `now` and after the last step. An error in writing ends
    the training, at the next checkpoint at the latest.
    """
    import ray.train
    from ray.train import CheckpointUploadMode as Mode

    worker.gather_order()
    if worker.writing is not None:
        worker.writing.result()  # two at a time would need the memory of two
    kept = snapshot(worker, parameters, optimizer, state)
    if kept is None:
        ray.train.report(metrics)
        return
    draft = new_draft(worker)
    write: Callable[[], None] = partial(write_checkpoint, worker, draft, kept)
    waits = now or worker.is_last(state)
    if not waits:
        worker.writing = _beside(write)
        write = worker.writing.result
    try:
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(draft),
            checkpoint_upload_mode=Mode.SYNC if waits else Mode.ASYNC,
            checkpoint_upload_fn=partial(_copied, write),
        )
    except BaseException:
        # Before Ray has asked for the copy: whose removal would end here too.
        if worker.writing is not None:
            wait([worker.writing])
        clear(draft)
        raise


def snapshot(
    worker: Worker,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    state: TrainingState,
) -> Snapshot | None:
    """What there is now, for rank 0; every rank must call this, for its part of the shards."""
    keep = worker.rank == 0
    tensors = state_tensors(parameters, optimizer)
    moments = {n: t for n, t in tensors.items() if not n.startswith(PARAMETER)}
    language = parameters if "full" in worker.job.config.parts else {}
    kept = (
        whole(_weights(worker), keep=keep),
        as_language(whole(language, keep=keep)),
        whole(moments, keep=keep),
    )
    if not keep:
        return None
    note = {**_note(worker), "unrepeatable": sorted(worker.model.unrepeatable)}
    state = TrainingState.model_validate({**dict(state), "note": note})
    return Snapshot(*kept, list(worker.losses), worker.order, state)


def new_draft(worker: Worker) -> Path:
    """An empty folder for a checkpoint; those that dead processes have left of this run go."""
    ours = f"psavlm-checkpoint-{worker.job.run}-{worker.rank}-"
    for old in Path(tempfile.gettempdir()).glob(f"{glob.escape(ours)}*"):
        pid = old.name.removeprefix(ours).partition("-")[0]
        if pid.isdecimal() and not alive(int(pid), started(int(pid))):
            clear(old)
    return Path(tempfile.mkdtemp(prefix=f"{ours}{os.getpid()}-"))


def write_checkpoint(worker: Worker, folder: Path, kept: Snapshot) -> None:
    """All files of a checkpoint, and last the one that names them.

    Args:
        worker: rank 0.
        folder: an empty one.
        kept: what they hold.
    """
    write_tensors(folder / WEIGHTS, kept.weights | kept.language)
    save_state(folder / STATE, kept.moments, kept.state)
    pq.write_table(pa.Table.from_pylist(kept.losses, schema=POINTS), folder / CURVE)
    pq.write_table(kept.order, folder / ORDER)
    if worker.is_last(kept.state):
        publish(worker, folder / FOLDER, kept.language)
    seal(folder)


def _beside(work: Callable[[], None]) -> Future[None]:
    pool = ThreadPoolExecutor(1)
    done = pool.submit(work)
    pool.shutdown(wait=False)
    return done


def _copied(write: Callable[[], None], draft: "Checkpoint", name: str) -> "Checkpoint":
    """The draft, when it is written, in the run's folder by that name; called by Ray Train."""
    import ray.train

    try:
        write()
        return ray.train.get_context().get_storage().persist_current_checkpoint(draft, name)
    finally:
        clear(Path(draft.path))


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
