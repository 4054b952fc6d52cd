"""Points to compare: the same line with another config each, side by side where there is room.

A point that fails ends with its reason; the others go on. All that a point has made lies in the
store, so that a comparison that was stopped goes on where it stood.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.line import Do, pipeline, plainly, up_to
from flows.page import log
from flows.steps import RETRIES, RETRY_DELAY_S, as_task, worth_retrying
from flows.told import told
from infra import ray_cluster
from infra.cluster_address import check_cluster, to_join
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import NOTHING, HeldOut, PipelineConfig
from schemas.errors import TrainingError
from tasks.base_model import base_model
from tasks.encode import encode
from tasks.progress import say

# Steps of flows/line.py that no point has to itself.
SHARED = ("world", "ingest", "validate", "base", "encode")
Done = TypeVar("Done")


@dataclass(frozen=True)
class Point:
    """One config to compare with others: what is special about it, and its seed.

    `held_out`: what it is trained without, beyond what all are.
    """

    label: str
    seed: int
    config: PipelineConfig
    held_out: HeldOut = NOTHING

    @property
    def name(self) -> str:
        """What its task is called."""
        held = f" without {self.held_out.told}" if self.held_out != NOTHING else ""
        return f"{self.label} seed {self.seed}{held}"


@dataclass(frozen=True)
class Ended(Generic[Done]):
    """How a point ended: what its judging gave, or `done` None and why."""

    point: Point
    done: Done | None = None
    error: str = ""
    reused: bool = False


# Given a point, what its line has made by step, and how to call one more step.
Judge = Callable[[Point, Mapping[str, Artifact], Do], Done]


@dataclass(frozen=True)
class Runner(Generic[Done]):
    """What all points share; `stopped` is set when the comparison ends early."""

    store: Store
    cluster: str
    judge: Judge[Done]
    stopped: threading.Event = field(default_factory=threading.Event)

    def run_all(self, points: Sequence[Point]) -> list[Ended[Done]]:
        """All points, as many at a time as there is room for, as Prefect tasks."""
        check_cluster(self.cluster, self.store.root)
        workers = max(point.config.stage1.workers for point in points)
        slots = ray_cluster.room(self.cluster, workers=workers)
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
            if isinstance(outcome, Ended)
            else Ended(point, error=_told(outcome, self.store.root))
            for point, outcome in zip(points, outcomes, strict=True)
        ]

    def run(self, point: Point) -> Ended[Done]:
        """One point: train the stages that it has, and judge what came of it."""
        made: dict[str, Artifact] = {}

        def do(name: str, step: Callable[..., Artifact], *args: Any, **kwargs: Any) -> Artifact:
            if self.stopped.is_set():
                raise TrainingError(f"{point.name} was stopped before {name}; start it again")
            # What is shared was told when it was made.
            tell = plainly if name in SHARED else told(plainly, also=log)
            made[name] = tell(f"{point.name} {name}", step, *args, **kwargs)
            return made[name]

        stages = point.config.stages
        last = stages[-1].value if stages else SHARED[-1]
        up_to(pipeline(point.config, store=self.store, do=do, cluster=self.cluster), last)
        done = self.judge(point, made, do)
        return Ended(point, done, reused=all(artifact.reused for artifact in made.values()))

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


def shared(config: PipelineConfig, store: Store, cluster: str) -> Artifact:
    """Make what all points share, as named tasks; returns the labelled rows."""
    run: dict[str, Any] = {"store": store, "cluster": to_join(cluster)}
    do = told(as_task, also=log)
    made = up_to(pipeline(config, store=store, do=do, cluster=cluster), "validate")
    labelled, samples = made["validate"], made["ingest"]
    base = do("base", base_model, config.base, store=store)
    do("encode", encode, config.encode, labelled, samples, base, **run)
    return labelled


def check_failures(ended: Sequence[Ended[Any]]) -> None:
    """Warn of points that failed; TrainingError if all of them did."""
    failed = [end for end in ended if end.error]
    for end in failed:
        text = f"{end.point.name} failed: {end.error}"
        get_run_logger().warning(text)
        say(text)
    if len(failed) == len(ended):
        raise TrainingError(f"none of {len(ended)} points succeeded; the first: {failed[0].error}")


def _told(error: Any, root: str) -> str:
    """A failure in one line that names no place of this machine: it becomes part of an artifact."""
    text = " ".join(line.strip() for line in str(error).splitlines()).replace(root, "root")
    return f"{type(error).__name__}: {text}"
