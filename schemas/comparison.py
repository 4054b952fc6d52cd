"""Two models on the same items: what a comparison is asked for, and what it says."""

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.config import Count
from schemas.frozen import Frozen
from schemas.report import WILSON, Metric, RateInterval

Verdict = Literal["safer", "not shown", "worse"]
Mark = Literal["better", "worse", ""]


class CompareConfig(Frozen):
    """How two models are compared: level of the tests, draws of the bootstrap, slices that count.

    Slices with fewer than `min_slice` items are left out of the tables, and counted. `interval`: of
    each model's rates; differences have Tango's.
    """

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    min_slice: Count = 20
    bootstrap: Count = 2000
    interval: RateInterval = WILSON
    seed: int = 0


class Line(Frozen):
    """One rate of both models on the same `n` items, and their difference.

    Attributes:
        name: the rate, `rate/slice` in tables of slices.
        what: in words.
        judge: who judged these items; no line counts items of two kinds of judge.
        n: items.
        old: the old model's rate with its interval.
        new: the new model's.
        difference: new minus old.
        low: lower end of the difference's 95 % interval (Tango's score interval, with the design
            effect of items that share an image), not corrected for other lines.
        high: its upper end.
        effect: the design effect.
        p: two-sided, the exact sign test over groups of items that share an image.
        p_holm: the same, corrected by Holm for all lines of its table.
        mark: which way it changed if p_holm is at most alpha, else nothing.
    """

    name: str
    what: str
    judge: str
    n: int
    old: Metric
    new: Metric
    difference: float
    low: float
    high: float
    effect: float
    p: float
    p_holm: float
    mark: Mark


class Mean(Frozen):
    """A mean of both models, and the difference's 95 % interval by the stated method.

    `tango_mover`: the differences' own intervals combined (tasks/compare/lines.py);
    `bootstrap_by_group`: paired, whole groups of items that share an image drawn at once.
    """

    name: str
    what: str
    n: int
    old: float
    new: float
    difference: float
    low: float
    high: float
    method: Literal["tango_mover", "bootstrap_by_group"]


class Change(Frozen):
    """How many items of a kind went from one outcome to another."""

    kind: Literal["risky", "benign"]
    old: str
    new: str
    n: int


class Model(Frozen):
    """A side as it was named, and the artifact that holds its answers.

    `filtered`: how many of them the endpoint's own filter withheld, if any; they count as refused.
    `unanswered`: items that it has no answer to, if any. `learnt`: items that it was trained or
    calibrated on, or on images of theirs; None where that is not known. Both kinds are left out for
    both sides.
    """

    name: str
    answers: str
    filtered: int = Field(default=0, exclude_if=lambda count: count == 0)
    unanswered: int = Field(default=0, exclude_if=lambda count: count == 0)
    learnt: int | None = None


class Comparison(Frozen):
    """`compare.json`: everything that the page says.

    Attributes:
        format: of this file.
        verdict: on risky requests obeyed, the one question that was fixed beforehand.
        sentence: the verdict with its numbers.
        price: what it cost in benign requests refused and exact answers.
        old: the model compared with.
        new: the model in question.
        items: hash of the items.
        labelled: the snapshot whose test split they are.
        n: items that count.
        alpha: level of the tests.
        interval: of each model's rates.
        rates: all rates; the first of each judge decides.
        types: risky requests obeyed by risk type.
        slices: risky ones obeyed and benign ones refused by slice.
        left_out: slices with too few items.
        means: means over risk types, and the length of answers.
        changes: items by the outcomes of both.
        benchmarks: an entry for each benchmark of the preset that both were asked, as in a report.
    """

    format: int = 1
    verdict: Verdict
    sentence: str
    price: str
    old: Model
    new: Model
    items: str
    labelled: str
    n: int
    alpha: float
    interval: RateInterval = WILSON
    rates: tuple[Line, ...]
    types: tuple[Line, ...]
    slices: tuple[Line, ...]
    left_out: int
    means: tuple[Mean, ...]
    changes: tuple[Change, ...]
    benchmarks: tuple[dict[str, Any], ...] = ()


class VersionLine(Frozen):
    """One registered version on the common items; `before` is set against the version above it.

    `learnt` is as in Model: of the items in `metrics`; `before` leaves out those of both versions.
    """

    version: int
    aliases: tuple[str, ...]
    created: str
    model: str
    error: str = ""
    metrics: dict[str, Metric] = {}
    before: Line | None = None
    learnt: int | None = None


class Past(Frozen):
    """`history.json`: all registered versions over time, asked the same items.

    `judges` counts the items by how they were judged; the numbers are those of the first.
    """

    format: int = 1
    labelled: str
    items: str
    n: int
    judges: dict[str, int]
    interval: RateInterval = WILSON
    versions: tuple[VersionLine, ...]
