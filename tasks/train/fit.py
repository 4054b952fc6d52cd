"""One Ray Train run as its driver sees it: started, waited for, asked to stop, its errors told."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra import ray_cluster
from infra.files import Files
from infra.last_words import last_words
from infra.store import Store
from schemas.errors import ConfigError, DataError, PsavlmError, StoppedError, TrainingError
from tasks.progress import say
from tasks.train.job import STOPPED, Job

if TYPE_CHECKING:
    from ray.train import Result, TrainingFailedError
    from ray.train.torch import TorchTrainer

# How long the end of the process waits for the checkpoint. Whoever sends the signal may wait less
# (SLURM 30 s, spot machines 120 s) and kill: then the last checkpoint in time counts.
GRACE_S = 110.0
# No other try can end otherwise. A store that is away may be back at the next one.
FINAL = (TrainingError, DataError, ConfigError)


def fit(job: Job, store: Store, run: str, *, use_gpu: bool) -> "Result":
    """Run the stage's loop on its workers to the end.

    A signal that ends this process makes the workers write a checkpoint first.

    Raises:
        TrainingError: the run failed more often than `max_failures`, or for good.
        StoppedError: it was asked to stop and has done so.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    trainer = _trainer(job, store, run, use_gpu=use_gpu)
    # Ray's core aborts a process whose cluster is gone, past all exceptions.
    gone = (
        f"{job.config.stage.value} has ended without an answer from Ray: its cluster is gone, or "
        "this process was killed. Run the same command: it goes on from the checkpoints under "
        f"{store.root}/runs/{run}"
    )
    try:
        with last_words(gone):
            result: Result = _waited_for(trainer.fit, job, store)
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
    if result.return_value == STOPPED:
        raise StoppedError(
            f"{job.config.stage.value} was asked to stop and has written a checkpoint under "
            f"{store.root}/runs/{run}: run the same command to go on from it"
        )
    return result


def _trainer(job: Job, store: Store, run: str, *, use_gpu: bool) -> "TorchTrainer":
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from tasks.train.verdict import Verdict

    return TorchTrainer(
        _loop,
        train_loop_config=job.model_dump(mode="json"),
        scaling_config=ScalingConfig(num_workers=job.config.workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=run,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=job.config.max_failures),
            callbacks=[Verdict(FINAL)],
            **_storage(store),
        ),
    )


def _waited_for(call: "Callable[[], Result]", job: Job, store: Store) -> "Result":
    """Wait for a run in a thread of its own, so that a signal's exception is ours to handle."""
    files, stop = Files.at(store.root), job.stop.removeprefix(f"{store.root}/")
    files.remove(stop)  # of a run that was stopped before
    outcome: Future[Result] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return outcome.result()
    except BaseException:
        if not outcome.done():  # not the run's own error
            stage = job.config.stage.value
            say(f"{stage}: asked to end; waiting for a checkpoint")
            files.put(stop, b"", fresh=False)
            wait([outcome], timeout=GRACE_S)
            say(f"{stage}: {'stopped; ' if outcome.done() else ''}the same command goes on")
        raise


def _loop(settings: dict[str, Any]) -> str:
    """What each worker runs; imported there alone, for transformers costs seconds a process."""
    from tasks.train.loop import train_loop

    return train_loop(settings)


def _told(error: "TrainingFailedError") -> PsavlmError | None:
    """The error that a worker raised on purpose, if that is what ended the run."""
    failures = [*getattr(error, "worker_failures", {}).values()]
    for failure in [getattr(error, "controller_failure", None), *failures]:
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
