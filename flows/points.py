"""The points of a sweep: the same line at another ratio and seed, side by side where there is room.

A point that fails is a row of the table with its reason; the others go on. All that a point has
made lies in the store, so that a sweep that was stopped goes on where it stood.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.line import pipeline, plainly, up_to
from flows.page import log
from flows.steps import RETRIES, RETRY_DELAY_S, worth_retrying
from flows.told import told
from infra import ray_cluster
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import PipelineConfig, Stage
from schemas.errors import TrainingError
from schemas.sweep import PointsConfig, StageResult, SweepPoint
from tasks.evaluate.points import evaluate_points

# Steps of flows/line.py that no point has to itself; and stage -> the step that orders its items.
SHARED = ("world", "ingest", "validate", "base", "encode")
ORDERS = {Stage.CONCEPTS: "balance", Stage.ALIGNMENT: "balance for stage 2"}


@dataclass(frozen=True)
class Point:
    """One ratio and seed, with the config that they make."""

    ratio: float
    seed: int
    config: PipelineConfig

    @property
    def name(self) -> str:
        """What its task is called."""
        return f"ratio {self.ratio:g} seed {self.seed}"


@dataclass(frozen=True)
class Runner:
    """What all points share; `stopped` is set when the sweep ends early."""

    store: Store
    cluster: str
    false_positive_rate: float
    stopped: threading.Event = field(default_factory=threading.Event)

    def run_all(self, points: Sequence[Point], *, slots: int) -> list[SweepPoint]:
        """All points, `slots` at a time, as Prefect tasks; failed ones with their error."""
        pool: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=slots)
        with pool as threads:
            futures = [threads.submit(self._as_task(point), {}) for point in points]
            try:
                for future in futures:
                    future.wait()
            except BaseException:
                # Cancelled: threads cannot be ended from outside, the work they wait for can.
                self.stopped.set()
                ray_cluster.leave()
                raise
        outcomes = [future.result(raise_on_failure=False) for future in futures]
        return [
            outcome
            if isinstance(outcome, SweepPoint)
            else SweepPoint(
                ratio=point.ratio, seed=point.seed, error=_told(outcome, self.store.root)
            )
            for point, outcome in zip(points, outcomes, strict=True)
        ]

    def run(self, point: Point) -> SweepPoint:
        """One point: train both stages, and evaluate each at every operating point."""
        made: dict[str, Artifact] = {}

        def do(name: str, step: Callable[..., Artifact], *args: Any, **kwargs: Any) -> Artifact:
            if self.stopped.is_set():
                raise TrainingError(f"{point.name} was stopped before {name}; start it again")
            # What is shared was told when it was made.
            tell = plainly if name in SHARED else told(plainly, also=log)
            made[name] = tell(f"{point.name} {name}", step, *args, **kwargs)
            return made[name]

        last = point.config.last_arm
        up_to(pipeline(point.config, store=self.store, do=do, cluster=self.cluster), last)
        config = PointsConfig(
            evaluate=point.config.evaluate, false_positive_rate=self.false_positive_rate
        )
        seen = (made["base"], made["validate"], made["encode"])
        stages = {}
        for stage in point.config.stages:
            name, model = f"evaluate {stage.value}", made[stage.value]
            judged = do(name, evaluate_points, config, *seen, model, store=self.store)
            order = made[ORDERS[stage]]
            stages[stage.value] = StageResult(balanced=order, model=model, evaluated=judged)
        reused = all(artifact.reused for artifact in made.values())
        return SweepPoint(ratio=point.ratio, seed=point.seed, stages=stages, reused=reused)

    def _as_task(self, point: Point) -> Task[[], Any]:
        @task(
            name=point.name,
            task_run_name=point.name,
            retries=RETRIES,
            retry_delay_seconds=RETRY_DELAY_S,
            retry_condition_fn=worth_retrying,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        def call() -> Any:
            done = self.run(point)
            return Completed(name="Cached", data=done) if done.reused else done

        return call


def _told(error: Any, root: str) -> str:
    """A failure in one line that names no place of this machine: it becomes part of an artifact."""
    text = " ".join(line.strip() for line in str(error).splitlines()).replace(root, "root")
    return f"{type(error).__name__}: {text}"
