"""Train: one stage as a Ray Train run that survives its workers and its driver.

The run is named by the artifact's fingerprint, so that a restarted step goes on from its own
checkpoints and never from another's. Ray holds the checkpoints until the artifact is committed.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra import ray_cluster
from infra.fingerprint import content_hash, fingerprint
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import TrainConfig
from schemas.errors import DataError, PsavlmError, TrainingError
from schemas.hints import load_hints
from schemas.taxonomy import load_taxonomy
from tasks.base_model import FOLDER, libraries
from tasks.progress import say
from tasks.train.job import CURVE, Inputs, Job
from tasks.train.watch import watching

if TYPE_CHECKING:
    from ray.train import Result, TrainingFailedError

VERSION = 2


def train(config: TrainConfig, inputs: Inputs, *, store: Store, cluster: str = "") -> Artifact:
    """The model after one stage: `model/` with safety modules, adapter, card; `losses.parquet`.

    Args:
        config: the stage.
        inputs: what it reads.
        store: where artifacts and checkpoints live.
        cluster: address of a Ray cluster; empty starts one on this machine.

    Raises:
        DataError: no clean row to calibrate with.
        TrainingError: the run failed more often than `max_failures`, or its loss was not finite.
    """
    # A plan may not know the count yet: only a counted zero is a refusal.
    calibrates = inputs.start is None and config.method.head != "none"
    if calibrates and inputs.labelled.counts.get("calibration_clean") == 0:
        raise DataError(
            "the calibration split has no clean row, so the guard's threshold cannot be set: "
            "raise ingest.calibration, or give a source with split=calibration"
        )
    taxonomy = load_taxonomy(config.taxonomy)
    hints = load_hints(config.method.hints, taxonomy=taxonomy)
    settings = {"taxonomy": content_hash(taxonomy), "hints": content_hash(hints)}
    step = config.stage.value
    ingredients: dict[str, Any] = {
        "config": config,
        "parents": inputs.parents(),
        "inputs": {**libraries(), **settings},
    }
    name = fingerprint(step, VERSION, **ingredients)
    run = store.run_folder(step, name)
    told = {"taxonomy": taxonomy, "hints": hints, "progress": f"{run}/progress.json"}
    job = Job(config=config, inputs=inputs, root=store.root, **told)

    def build(folder: Path) -> dict[str, int]:
        return _build(job, store, Path(run).name, folder, cluster)

    artifact = store.artifact(step, VERSION, **ingredients, build=build)
    # Also where it was reused: its builder may have died between commit and here.
    store.drop_run(step, name)
    return artifact


def _build(job: Job, store: Store, run: str, folder: Path, address: str) -> dict[str, int]:
    say(f"joining Ray at {address}" if address else "starting Ray on this machine")
    cluster = ray_cluster.join(address, cpus=job.config.workers)
    if cluster.dashboard:
        say(f"ray dashboard  {cluster.dashboard}")
    with watching(store, job.progress, job.config):
        result = _fit(job, store, run, use_gpu=cluster.gpus >= job.config.workers)
    if result.checkpoint is None:
        raise TrainingError(f"run {run} ended without a checkpoint")
    with result.checkpoint.as_directory() as checkpoint:
        shutil.copytree(Path(checkpoint) / FOLDER, folder / FOLDER)
        shutil.copy(Path(checkpoint) / CURVE, folder / CURVE)
    return {"steps": sum(part.steps for part in job.config.parts.values())}


def _fit(job: Job, store: Store, run: str, *, use_gpu: bool) -> "Result":
    from ray.exceptions import RayError
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _loop,
        train_loop_config=job.model_dump(mode="json"),
        scaling_config=ScalingConfig(num_workers=job.config.workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=run,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=job.config.max_failures),
            **_storage(store),
        ),
    )
    try:
        return trainer.fit()
    except RayError as error:
        # A dead cluster's connection must not be used again, nor wait for its minute to end us.
        ray_cluster.leave()
        raise TrainingError(
            f"the Ray cluster went away in mid {job.config.stage.value} ({type(error).__name__}). "
            f"Bring it back (psavlm up) and run the same command: it goes on from the checkpoints "
            f"under {store.root}/runs/{run}"
        ) from error
    except TrainingFailedError as error:
        raise _told(error) or TrainingError(
            f"{job.config.stage.value} failed: {error}. Its checkpoints are kept under "
            f"{store.root}/runs/{run}; run the same command to go on from them"
        ) from error


def _loop(settings: dict[str, Any]) -> None:
    """What each worker runs; imported there alone, for transformers costs seconds a process."""
    from tasks.train.loop import train_loop

    train_loop(settings)


def _told(error: "TrainingFailedError") -> PsavlmError | None:
    """The error that a worker raised on purpose, if that is what ended the run."""
    for failure in getattr(error, "worker_failures", {}).values():
        # Ray wraps a worker's exception to carry its traceback.
        inner = getattr(failure, "_base_exc", failure)
        if isinstance(inner, PsavlmError):
            return inner
    return None


def _storage(store: Store) -> dict[str, Any]:
    """Where Ray Train keeps checkpoints: under the store's root, on any file system."""
    files, root = store.filesystem()
    if "://" not in store.root:
        return {"storage_path": str(Path(root).resolve() / "runs")}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {
        "storage_path": f"{root}/runs",
        "storage_filesystem": PyFileSystem(FSSpecHandler(files)),
    }
