"""What benchmarks count whose answers a judging model grades from 0 to 10."""

from collections.abc import Sequence
from statistics import fmean

from tasks.benchmarks.item import Measure, Row
from tasks.benchmarks.refusals import ATTACK

GRADE = Measure("mean_score", lambda row: row["score"], "mean")
MEASURES = (GRADE, ATTACK)


def mean_of(rows: Sequence[Row]) -> float | None:
    """The mean grade of the graded rows; what is unscored is not 0, it is left out."""
    scores = [row["score"] for row in rows if row["score"] is not None]
    return fmean(scores) if scores else None
