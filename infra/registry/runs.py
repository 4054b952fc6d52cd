"""Runs in MLflow: one for every key, however often and from wherever it is logged."""

from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from infra.fingerprint import content_hash
from infra.registry.connect import or_another_made_it

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

EXPERIMENT = "psavlm"
KEY, CONTENT, PARENT = "psavlm_key", "psavlm_content", "mlflow.parentRunId"
BATCH = 100
LONGEST = 500


@dataclass(frozen=True)
class Run:
    """What a run says.

    Attributes:
        key: what makes it this run: a model's fingerprint, or a name of one's own without quotes.
        name: for people.
        params: what was asked for.
        metrics: what came of it.
        tags: what else it should be found by.
        texts: files by path in the run -> text.
        files: files by path in the run -> local file.
    """

    key: str
    name: str
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    def content(self) -> str:
        """A hash of all that is said; of local files their names: `tags` name their artifact."""
        said = [self.params, self.metrics, self.tags, self.texts, sorted(self.files)]
        return content_hash(said)


def log_run(client: "MlflowClient", run: Run, *, experiment: str, parent: str = "") -> str:
    """Log a run, or complete the one that a dead process began; returns its id.

    Every call may be the last one of a process: the run is made with its key, all that is logged
    may be logged again, and the content's hash comes last.
    """
    found = find_run(client, run.key, experiment=experiment)
    if found is None:
        tags = {KEY: run.key, **run.tags, **({PARENT: parent} if parent else {})}
        found = client.create_run(experiment, run_name=run.name, tags=tags)
    elif found.data.tags.get(CONTENT) == run.content():
        return str(found.info.run_id)
    _fill(client, found, run)
    return str(found.info.run_id)


def find_run(client: "MlflowClient", key: str, *, experiment: str) -> "MlflowRun | None":
    """The run of a key, None if there is none."""
    runs = client.search_runs(
        [experiment], f"tags.{KEY} = '{key}'", max_results=1, order_by=["attributes.start_time ASC"]
    )
    return runs[0] if runs else None


def experiment_id(client: "MlflowClient", location: str | None) -> str:
    """The experiment that all runs are in; made if there is none."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        with or_another_made_it():
            client.create_experiment(EXPERIMENT, artifact_location=location)
        found = client.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id)


def _fill(client: "MlflowClient", found: "MlflowRun", run: Run) -> None:
    from mlflow.entities import Metric, Param, RunTag

    name, when = found.info.run_id, found.info.start_time
    params = [Param(key, str(value)[:LONGEST]) for key, value in run.params.items()]
    for first in range(0, len(params), BATCH):
        client.log_batch(name, params=params[first : first + BATCH])
    # Logged twice, a metric is still one point. Another value has a time of its own: of two points
    # of one time MLflow would show the larger.
    logged, now = found.data.metrics, int(time() * 1000)
    metrics = [
        Metric(key, value, now if key in logged else when, 0)
        for key, value in run.metrics.items()
        if logged.get(key) != value
    ]
    tags = [RunTag(key, value) for key, value in run.tags.items()]
    client.log_batch(name, metrics=metrics, tags=tags)
    for path, text in run.texts.items():
        client.log_text(name, text, path)
    for path, file in run.files.items():
        folder = Path(path).parent.as_posix()
        client.log_artifact(name, str(file), None if folder == "." else folder)
    client.set_terminated(name)
    client.set_tag(name, CONTENT, run.content())
