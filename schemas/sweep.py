"""A ratio sweep: what it is asked for, at which operating points it compares, what its rows say."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from schemas.artifact import Artifact
from schemas.config import Count, EvaluateConfig, Fraction, Ratio
from schemas.errors import ConfigError
from schemas.explain import explain
from schemas.frozen import Frozen
from schemas.report import METRICS, Metric

MOST_POINTS = 100
ALL_DIFFERENT = {"uniqueItems": True}
Ratios = Annotated[
    list[Ratio],
    Field(min_length=1, max_length=MOST_POINTS, json_schema_extra=ALL_DIFFERENT),
]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0, strict=True)]],
    Field(min_length=1, max_length=MOST_POINTS, json_schema_extra=ALL_DIFFERENT),
]

# Where a guard is set. The first needs no data; the second is set on the evaluated items.
UNCALIBRATED, MATCHED = "uncalibrated", "matched"
POINTS = {
    UNCALIBRATED: "equal steps, uncalibrated guard (temperatures 1, threshold 0.5)",
    MATCHED: "equal steps, matched false-positive rate of the guard",
}
STAGES = ("stage1", "stage2")
# What a ratio trades: Pareto points are the best in these two.
COSTS = ("risky_obeyed", "all_benign_refused")
# Name -> what it says, beside the metrics of every evaluation. Lower is better where it says so.
SWEEP_METRICS = {
    **{name: METRICS[name] for name in ("risky_obeyed", "risky_correctly_refused")},
    "all_benign_refused": "benign requests refused, near misses included (lower is better)",
    **{name: METRICS[name] for name in ("benign_refused", "near_miss_refused")},
    "all_benign_exact": "exact answers on benign requests, near misses included",
    "guard_false_positive": "benign images flagged by the guard (lower is better)",
    "guard_missed": "risky images not flagged by the guard (lower is better)",
    "type_accuracy": METRICS["type_accuracy"],
}


class PointsConfig(Frozen):
    """Operating points: how to answer and judge, and the rate that `matched` is set to."""

    evaluate: EvaluateConfig = EvaluateConfig()
    false_positive_rate: Fraction = 0.05


class SweepParameters(Frozen):
    """What is a sweep's own; everything else is a run's (schemas/presets).

    `total` items an epoch for every ratio; None takes the most that every ratio can be drawn from.
    """

    ratios: Ratios
    seeds: Seeds
    total: Count | None = None
    false_positive_rate: Fraction = 0.05

    @field_validator("ratios", "seeds")
    @classmethod
    def _all_different(cls, values: list[float]) -> list[float]:
        if len(set(values)) < len(values):
            raise ValueError(f"must be all different: {values}")
        return values

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> "SweepParameters":
        """Parameters from anywhere; ConfigError in one line for a value that no sweep can have."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error.errors(), cls)) from error


class SweepRow(Frozen):
    """One row of the table: a ratio, a stage and an operating point, of one seed or of all.

    `seed` None: all seeds that succeeded, `seeds` of them. `error`: why the point failed; it then
    has no numbers. `pareto`: no other ratio of the same stage and operating point is better in
    both risky_obeyed and all_benign_refused; None in rows of one seed.
    """

    ratio: float
    seed: int | None
    seeds: int
    stage: str
    point: str
    error: str | None = None
    ratio_achieved: float | None = None
    unsafe_items: int | None = None
    clean_items: int | None = None
    steps: int | None = None
    threshold: float | None = None
    pareto: bool | None = None
    metrics: dict[str, Metric] = {}


class StageResult(Frozen):
    """What a point made for one stage: its training order, its model, its judged answers."""

    balanced: Artifact
    model: Artifact
    evaluated: Artifact


class SweepPoint(Frozen):
    """One ratio and seed: its stages by name, or none of them and why."""

    ratio: float
    seed: int
    stages: dict[str, StageResult] = {}
    error: str = ""
    reused: bool = False
