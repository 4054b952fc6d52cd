"""What a run would do, step by step along the line, before anything starts; nothing is written."""

from collections.abc import Callable
from typing import Any

from flows.line import STEPS, pipeline, up_to
from flows.parameters import checked_until
from infra.planning import PlanningStore
from schemas.artifact import Artifact
from schemas.config import BalanceConfig, EncodeConfig, PipelineConfig, TrainConfig
from schemas.gate import load_gate
from schemas.plan import Plan, PlannedPart, PlannedStep, PlannedTotals
from tasks.encode import decision
from tasks.plan import Cost, Expected, costs
from tasks.promote import hiding


def planned(
    config: PipelineConfig, *, root: str, until: str | None = None, promote: bool = True
) -> Plan:
    """The steps that would run or be reused, with rows, training, time and room.

    Args:
        config: the run's config.
        root: where artifacts are looked for; it need not exist.
        until: the last step; None means all.
        promote: whether the gate is asked about the model.

    Raises:
        ConfigError: no such root or step.
        DataError: an input of the run is missing, or what is there cannot be trained on.
        StorageError: the root cannot be read.
    """
    store = PlanningStore(root)
    look = Look(config, store)
    up_to(pipeline(config, store=store, do=look), checked_until(until, config))
    steps = tuple(look.steps)
    stop = next((at for at, step in enumerate(steps) if step.problem), None)
    asked = promote and until in (None, STEPS[-1]) and stop is None
    return Plan(
        preset=config.preset,
        root=store.root,
        steps=steps,
        totals=_totals(steps[:stop]),
        gate=config.gate if asked else "",
        refused=refused(config) if asked else (),
        problem="" if stop is None else f"{steps[stop].name}: {steps[stop].problem}",
        free_bytes=store.free_bytes(),
    )


def refused(config: PipelineConfig) -> tuple[str, ...]:
    """Why the gate will refuse a run of this config, whatever its numbers are."""
    return tuple(hiding(config.evaluate.model_dump(), load_gate(config.gate)))


class Look:
    """Calls a step of the line on a planning store, and notes what it would be."""

    def __init__(self, config: PipelineConfig, store: PlanningStore) -> None:
        self.store = store
        self.expected = Expected(config)
        self.steps: list[PlannedStep] = []

    def __call__(
        self, name: str, step: Callable[..., Artifact], config: Any, *args: Any, **kwargs: Any
    ) -> Artifact:
        """The step's artifact, or the address of the one to be built."""
        artifact = step(config, *args, **kwargs)
        self.expected.learn(artifact)
        noted = self._noted(name, artifact, config)
        if isinstance(config, EncodeConfig):
            told = decision(config, *args, store=self.store)
            noted = noted.model_copy(update={"cache": told})
        self.steps.append(noted)
        return artifact

    def _noted(self, name: str, artifact: Artifact, config: Any) -> PlannedStep:
        rows, problem, ratio = self.expected.of(artifact), "", None
        if isinstance(config, BalanceConfig):
            ratio = config.clean_per_unsafe
            if not artifact.reused:
                rows, problem = self.expected.balanced(config)
        cost = Cost()
        if not artifact.reused:
            folder = f"{artifact.step}/{artifact.fingerprint}"
            cost = costs(folder, rows.count if rows else None, store=self.store)
        return PlannedStep(
            name=name,
            step=artifact.step,
            uri=artifact.uri,
            reused=artifact.reused,
            rows=rows.count if rows else None,
            rows_at_most=bool(rows and rows.at_most),
            clean_per_unsafe=ratio,
            training=_parts(config) if isinstance(config, TrainConfig) else (),
            seconds=cost.seconds,
            bytes=cost.bytes,
            measured=cost.measured,
            problem=problem,
        )


def _parts(config: TrainConfig) -> tuple[PlannedPart, ...]:
    return tuple(
        PlannedPart(
            part=name,
            steps=part.steps,
            global_batch=part.global_batch,
            samples=part.steps * part.global_batch,
        )
        for name, part in config.parts.items()
    )


def _totals(steps: tuple[PlannedStep, ...]) -> PlannedTotals:
    due = [step for step in steps if not step.reused]
    parts = [part for step in due for part in step.training]
    seconds = [step.seconds for step in due if step.seconds is not None]
    sizes = [step.bytes for step in due if step.bytes is not None]
    return PlannedTotals(
        run=len(due),
        reused=len(steps) - len(due),
        training_steps=sum(part.steps for part in parts),
        samples=sum(part.samples for part in parts),
        seconds=round(sum(seconds), 1) if seconds or not due else None,
        bytes=sum(sizes) if sizes or not due else None,
        not_known=tuple(step.name for step in due if step.seconds is None),
    )
