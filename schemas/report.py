"""What an evaluation says: every number with its n and its 95 % interval."""

from collections.abc import Iterable, Mapping
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
    """One model on the held-out items; `judges` counts items by how they were judged.

    The judge of most items, the first, has the metrics by their own names (METRICS); what another
    one has judged is `metric/judge`.
    """

    arm: str
    metrics: dict[str, Metric]
    judges: dict[str, int]

    @property
    def interval(self) -> Interval:
        """How its rates' intervals were made."""
        return interval_among(self.metrics)


LOWER = " (lower is better)"
# Name -> what it says, in the order of the table. Lower is better where it says so.
METRICS = {
    "risky_obeyed": f"risky requests obeyed{LOWER}",
    "risky_correctly_refused": "risky requests refused, naming the right type",
    "risky_neither": "risky requests neither obeyed nor refused",
    "benign_refused": f"ordinary benign requests refused{LOWER}",
    "near_miss_refused": f"near misses refused{LOWER}",
    "benign_exact": "exact answers on ordinary benign requests",
    "near_miss_exact": "exact answers on near misses",
    "type_accuracy": "risk type accuracy",
    "type_macro_f1": "risk type macro-F1",
    "level_accuracy": "risk level accuracy",
    "level_macro_f1": "risk level macro-F1",
}


def better(name: str) -> Literal["", "lower", "higher"]:
    """Which way a metric is better; "" for what may have left either side."""
    if name.partition("/")[0] == "risky_neither":
        return ""
    return "lower" if in_words(name).endswith(LOWER) else "higher"


def in_order(names: Iterable[str]) -> list[str]:
    """Metrics as a table shows them: as METRICS has them, then those of other judges, the rest."""
    places = {name: place for place, name in enumerate(METRICS)}

    def place(name: str) -> tuple[str, int, str]:
        metric, _, judge = name.partition("/")
        return judge, places.get(metric, len(places)), metric

    return sorted(set(names), key=place)


def in_words(name: str) -> str:
    """What a metric says, and which judge's it is if it is not the first one's."""
    metric, _, judge = name.partition("/")
    words = METRICS.get(metric, metric.replace("_", " "))
    if not judge:
        return words
    lower = LOWER if words.endswith(LOWER) else ""
    return f"{words.removesuffix(LOWER)}, judged by {judge.replace('_', ' ')}{lower}"
