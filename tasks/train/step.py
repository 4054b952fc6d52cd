"""Train: one stage as a Ray Train run that survives its workers and its driver.

The run is named by the artifact's fingerprint, so that a restarted step goes on from its own
checkpoints and never from another's. Ray holds the checkpoints until the artifact is committed.
"""

import shutil
from pathlib import Path
from typing import Any

from infra import ray_cluster
from infra.cluster_address import takes_jobs
from infra.fingerprint import content_hash, fingerprint
from infra.registry import Live
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import TrainConfig
from schemas.errors import DataError, TrainingError
from schemas.hints import Hints, load_hints
from schemas.taxonomy import Taxonomy, load_taxonomy
from tasks.base_model import FOLDER, libraries
from tasks.progress import say
from tasks.train.fit import fit
from tasks.train.job import CURVE, ORDER, Inputs, Job
from tasks.train.watch import watching

VERSION = 4


def train(config: TrainConfig, inputs: Inputs, *, store: Store, cluster: str = "") -> Artifact:
    """The model after one stage: `model/`, the losses and the rows of all steps.

    Args:
        config: the stage.
        inputs: what it reads.
        store: where artifacts and checkpoints live.
        cluster: address of a Ray cluster; empty starts one on this machine. To the jobs API of one
            elsewhere (http, https) the training is submitted.

    Raises:
        ConfigError: no cluster at the address, or one that cannot do it.
        DataError: no clean row to calibrate with.
        TrainingError: the run failed more often than `max_failures`, or its loss was not finite.
        StoppedError: the run was asked to end; the same call goes on from its checkpoint.
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
    plan: dict[str, Any] = {
        "config": config,
        "inputs": inputs,
        "taxonomy": taxonomy,
        "hints": hints,
    }
    name = fingerprint(config.stage.value, VERSION, **ingredients(**plan))
    run = store.run_folder(config.stage.value, name)
    job = Job(**plan, root=store.root, progress=f"{run}/progress.json")
    if takes_jobs(cluster):
        from tasks.train.remote import train_there

        return train_there(job, store, cluster)
    return train_here(job, store, cluster, Live(key=name, name=config.stage.value))


def ingredients(
    *, config: TrainConfig, inputs: Inputs, taxonomy: Taxonomy, hints: Hints
) -> dict[str, Any]:
    """What makes the artifact itself, with the libraries of this process."""
    settings = {"taxonomy": content_hash(taxonomy), "hints": content_hash(hints)}
    if config.quantise != "none":
        from model.quantise import quantiser

        settings |= quantiser()
    parents = inputs.parents()
    return {"config": config, "parents": parents, "inputs": {**libraries(), **settings}}


def train_here(job: Job, store: Store, cluster: str, live: Live | None = None) -> Artifact:
    """As `train`, by this process as the driver of a Ray cluster; `live` tells the figures."""
    step, _, name = job.run.rpartition("-")

    def build(folder: Path) -> dict[str, int]:
        return _build(job, store, folder, cluster, live)

    artifact = store.artifact(step, VERSION, **ingredients(**job.plan), build=build)
    # Also where it was reused: its builder may have died between commit and here.
    store.drop_run(step, name)
    return artifact


def on_gpus(config: TrainConfig, gpus: int) -> bool:
    """Whether each worker gets one of a cluster's GPUs; said where they are too few for that."""
    if 0 < gpus < config.workers:
        say(
            f"{config.stage.value}: {config.workers} workers and {gpus} GPUs in the cluster, so it "
            f"trains on CPUs: set {config.stage.value}.workers to {gpus} or less for the GPUs"
        )
    return gpus >= config.workers


def _build(job: Job, store: Store, folder: Path, address: str, live: Live | None) -> dict[str, int]:
    say(f"joining Ray at {address}" if address else "starting Ray on this machine")
    cluster = ray_cluster.join(address, cpus=job.config.workers)
    if cluster.dashboard:
        say(f"ray dashboard  {cluster.dashboard}")
    with watching(store, job.progress, job.config, live):
        result = fit(job, store, job.run, use_gpu=on_gpus(job.config, cluster.gpus))
    if result.checkpoint is None:
        raise TrainingError(f"run {job.run} ended without a checkpoint")
    with result.checkpoint.as_directory() as checkpoint:
        shutil.copytree(Path(checkpoint) / FOLDER, folder / FOLDER)
        for name in (CURVE, ORDER):
            shutil.copy(Path(checkpoint) / name, folder / name)
    return {"steps": sum(part.steps for part in job.config.parts.values())}
