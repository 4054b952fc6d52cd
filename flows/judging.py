"""What is asked of a trained point: at a sweep's operating points, or as its method is used."""

from collections.abc import Mapping

from flows.line import Do
from flows.points import Point
from infra.store import Store
from schemas.ablation import MethodPoint
from schemas.artifact import Artifact
from schemas.config import NOTHING, Fraction, MethodConfig, Stage
from schemas.sweep import PointsConfig, StageResult
from tasks.evaluate import evaluate
from tasks.evaluate.both import evaluate_both_ways
from tasks.evaluate.points import evaluate_points

# Stage -> the step that orders its items.
ORDERS = {Stage.CONCEPTS: "balance", Stage.ALIGNMENT: "balance for stage 2"}


def at_operating_points(
    point: Point, made: Mapping[str, Artifact], do: Do, *, store: Store, rate: Fraction
) -> dict[str, StageResult]:
    """Every stage at every operating point of a sweep.

    Args:
        point: what was trained.
        made: its artifacts by step.
        do: calls a step.
        store: where artifacts live.
        rate: the false-positive rate to match.
    """
    config = PointsConfig(evaluate=point.config.evaluate, false_positive_rate=rate)
    seen = (made["base"], made["validate"], made["encode"])
    stages = {}
    for stage in point.config.stages:
        name, model = f"evaluate {stage.value}", made[stage.value]
        judged = do(name, evaluate_points, config, *seen, model, store=store)
        order = made[ORDERS[stage]]
        stages[stage.value] = StageResult(balanced=order, model=model, evaluated=judged)
    return stages


def in_use(point: Point, made: Mapping[str, Artifact], do: Do, *, store: Store) -> MethodPoint:
    """The last arm of the method as it is used: its own threshold, intervention or oracle.

    The same evaluation as a run's, which finds it in the store. A guard is also asked with every
    item over its threshold and with none, after each stage: that is what it does at any other one.

    Args:
        point: what was trained, if anything.
        made: its artifacts by step.
        do: calls a step.
        store: where artifacts live.
    """
    config, arm = point.config, point.config.last_arm
    model = made.get(arm) if config.stages else None
    asked = config.method if config.method.concepts == "labels" else model
    seen = (made["base"], made["validate"], made["encode"])
    judged = do(f"evaluate {arm}", evaluate, config.evaluate, arm, *seen, store=store, model=asked)
    both = {}
    if guards(config.method) and point.held_out == NOTHING:
        for stage in config.stages:
            name, trained = f"evaluate {stage.value} both ways", made[stage.value]
            both[stage.value] = do(
                name, evaluate_both_ways, config.evaluate, *seen, trained, store=store
            )
    return MethodPoint(
        method=point.label, seed=point.seed, parts=config.method, evaluated=judged, model=model,
        both_ways=both, held_out=point.held_out,
    )  # fmt: skip


def guards(method: MethodConfig) -> bool:
    """Whether the method has a guard of its own that acts."""
    return method.head != "none" and method.intervention != "off"
