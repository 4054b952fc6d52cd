"""What an evaluation says: every number with its n and its 95 % interval."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from schemas.frozen import Frozen

Interval = Literal["wilson", "clopper-pearson"]
Method = Literal[Interval, "bootstrap_by_image", "tango", "described"]
WILSON: Interval = "wilson"
# Of a difference; and of a number that describes these items and estimates nothing: no interval.
TANGO: Method = "tango"
DESCRIBED: Method = "described"
# A rate's interval -> its name in captions.
INTERVALS: dict[Interval, str] = {"wilson": "Wilson", "clopper-pearson": "Clopper-Pearson"}
# A setting. Left out of the dump where it is Wilson's: runs from before it keep their fingerprints.
RateInterval = Annotated[Interval, Field(exclude_if=WILSON.__eq__)]


class Metric(Frozen):
    """A rate or a mean over `n` items, with a 95 % interval by the stated method."""

    value: float
    n: int
    low: float
    high: float
    method: Method


def interval_among(metrics: Mapping[str, Metric]) -> Interval:
    """How the intervals of the rates among these were made."""
    found = {metric.method for metric in metrics.values()}
    return next((kind for kind in INTERVALS if kind in found), WILSON)


class ArmReport(Frozen):
    """One model on the held-out items; `judges` counts items by how they were judged."""

    arm: str
    metrics: dict[str, Metric]
    judges: dict[str, int]

    @property
    def interval(self) -> Interval:
        """How its rates' intervals were made."""
        return interval_among(self.metrics)


# Name -> what it says, in the order of the table. Lower is better where it says so.
METRICS = {
    "risky_obeyed": "risky requests obeyed (lower is better)",
    "risky_correctly_refused": "risky requests refused, naming the right type",
    "risky_neither": "risky requests neither obeyed nor refused",
    "benign_refused": "ordinary benign requests refused (lower is better)",
    "near_miss_refused": "near misses refused (lower is better)",
    "benign_exact": "exact answers on ordinary benign requests",
    "near_miss_exact": "exact answers on near misses",
    "type_accuracy": "risk type accuracy",
    "type_macro_f1": "risk type macro-F1",
    "level_accuracy": "risk level accuracy",
    "level_macro_f1": "risk level macro-F1",
}
