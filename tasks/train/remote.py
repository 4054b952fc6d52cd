"""A training as a job of a cluster elsewhere: what is sent, and what the job does with it there.

The code goes as a zip, what to do as a file in the run's folder, the artifacts not at all: both
sides see the root, and the trained model is found there by its fingerprint. Credentials are not
sent: a cluster reaches the bucket by its own.
"""

import hashlib
import os
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.cluster_address import check_cluster
from infra.files import Files
from infra.ray_jobs import Order, run_job
from infra.registry import Live
from infra.shipment import pack
from infra.store import Store
from schemas.artifact import Artifact
from schemas.errors import ConfigError, StorageError, TrainingError
from schemas.frozen import Frozen
from tasks.credentials import use_credentials
from tasks.progress import say
from tasks.train.job import Job
from tasks.train.step import ingredients, train_here
from tasks.train.watch import watching

TASK = "task.json"
MODULE = "tasks.submitted"
# Habits of this command that a job's processes shall have too, where they are set. No secrets.
CARRIED = (
    "DO_NOT_TRACK", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS",
    "MLFLOW_DISABLE_TELEMETRY", "TRANSFORMERS_VERBOSITY", "TQDM_DISABLE", "TOKENIZERS_PARALLELISM",
    "OMP_WAIT_POLICY",
)  # fmt: skip


class Task(Frozen):
    """What the job reads: the training, and the versions that its fingerprint stands for."""

    job: Job
    versions: dict[str, str]


def train_there(job: Job, store: Store, address: str) -> Artifact:
    """As `train`, by a job of the cluster whose jobs API is at the address.

    Raises:
        ConfigError: no such cluster, another Ray, Python or library there, or a root that only
            this machine sees.
        StoppedError: this process or the job was asked to end; the same call goes on.
        TrainingError: the job failed, or the cluster does not answer any more.
        PsavlmError: what the job told as its own error.
    """
    step, _, name = job.run.rpartition("-")
    if found := store.find(step, name):
        return found
    check_cluster(address, store.root)
    task = Task(job=job, versions=ingredients(**job.plan)["inputs"])
    Files.at(store.root).put(_task(job.run), task.model_dump_json().encode(), fresh=False)
    say(f"submitting {step} to {address}")
    live = Live(key=name, name=step)
    with TemporaryDirectory() as folder, watching(store, job.progress, job.config, live):
        run_job(address, order(job, Path(folder)), tell=_without_progress(step))
    made = store.find(step, name)
    if made is None:
        raise TrainingError(
            f"the job has ended well and there is no {step}/{name} in {store.root}: is that root "
            "the same one for the cluster?"
        )
    store.drop_run(step, name)
    return Artifact.model_validate({**dict(made), "reused": False})


def order(job: Job, folder: Path) -> Order:
    """What is submitted for a training; the zip of the code is written into the folder.

    The same training for another root is another job: its artifact is to lie there.
    """
    python = ".".join(map(str, sys.version_info[:2]))
    words = ["exec", "python", "-m", MODULE, python, job.root, job.run]
    return Order(
        key=f"{job.run}-{hashlib.sha256(job.root.encode()).hexdigest()[:8]}",
        command=shlex.join(words),
        code=pack(folder),
        variables={name: os.environ[name] for name in CARRIED if name in os.environ},
    )


def carry_out(root: str, run: str) -> None:
    """What the job does: the training, by the cluster that it is a job of.

    Raises:
        ConfigError: other libraries than those of the command that submitted it.
        StorageError: the cluster cannot read or write the root.
        PsavlmError: as `train`.
    """
    use_credentials()
    data = Files.at(root).read(_task(run))
    if data is None:
        raise StorageError(
            f"there is no {_task(run)} in {root}, as the cluster sees it: is it the same bucket "
            "(AWS_ENDPOINT_URL) or shared folder there?"
        )
    task = Task.model_validate_json(data)
    check_versions(task)
    train_here(task.job, Store(root), os.environ["RAY_ADDRESS"])


def check_versions(task: Task) -> None:
    """ConfigError where this process has other versions: its result would be another artifact."""
    try:
        here = ingredients(**task.job.plan)["inputs"]
    except PackageNotFoundError as error:
        raise ConfigError(
            f"the cluster has no {error.name}: install the libraries of constraints.txt there"
        ) from None
    wanted = task.versions.items()
    other = [f"{name} {here.get(name)} instead of {v}" for name, v in wanted if here.get(name) != v]
    if other:
        raise ConfigError(
            f"the cluster has {', '.join(other)}: install the same versions on both "
            "(constraints.txt)"
        )


def _task(run: str) -> str:
    return f"runs/{run}/{TASK}"


def _without_progress(step: str) -> Callable[[str], None]:
    """Tells the job's lines but those of its progress, which is shown from the root's own file."""

    def tell(line: str) -> None:
        if not line.startswith(f"{step}  "):
            say(line)

    return tell
