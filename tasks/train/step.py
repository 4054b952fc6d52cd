"""Train: one stage as a Ray Train run that survives its workers and its driver.

The run is named by the artifact's fingerprint, so that a restarted step goes on from its own
checkpoints and never from another's. Ray holds the checkpoints until the artifact is committed.
"""

import shutil
from pathlib import Path
from typing import Any

from infra import ray_cluster
from infra.fingerprint import content_hash, fingerprint
from infra.registry import Live
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import TrainConfig
from schemas.errors import DataError, TrainingError
from schemas.hints import load_hints
from schemas.taxonomy import load_taxonomy
from tasks.base_model import FOLDER, libraries
from tasks.progress import say
from tasks.train.fit import fit
from tasks.train.job import CURVE, ORDER, Inputs, Job
from tasks.train.watch import watching

VERSION = 3


def train(config: TrainConfig, inputs: Inputs, *, store: Store, cluster: str = "") -> Artifact:
    """The model after one stage: `model/`, the losses and the rows of all steps.

    Args:
        config: the stage.
        inputs: what it reads.
        store: where artifacts and checkpoints live.
        cluster: address of a Ray cluster; empty starts one on this machine.

    Raises:
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
    settings = {"taxonomy": content_hash(taxonomy), "hints": content_hash(hints)}
    if config.quantise != "none":
        from model.quantise import quantiser

        settings |= quantiser()
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
    live = Live(key=run.rpartition("-")[2], name=job.config.stage.value)
    with watching(store, job.progress, job.config, live):
        result = fit(job, store, run, use_gpu=cluster.gpus >= job.config.workers)
    if result.checkpoint is None:
        raise TrainingError(f"run {run} ended without a checkpoint")
    with result.checkpoint.as_directory() as checkpoint:
        shutil.copytree(Path(checkpoint) / FOLDER, folder / FOLDER)
        for name in (CURVE, ORDER):
            shutil.copy(Path(checkpoint) / name, folder / name)
    return {"steps": sum(part.steps for part in job.config.parts.values())}
