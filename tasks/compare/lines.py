"""Paired rates, differences and tests of two models on the same items."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from schemas.comparison import CompareConfig, Line, Mark, Mean
from schemas.report import Interval
from tasks.evaluate.intervals import rate
from tasks.promote.paired import Pairs
from tasks.promote.questions import Question, Row, Rows

BOTH = tuple[Row, Row]  # the old model's row of an item and the new one's


@dataclass(frozen=True)
class Asked:
    """A question that a table asks: its name, its words, and which items count in this line."""

    name: str
    what: str
    question: Question


def only(question: Question, keep: Callable[[Row], bool]) -> Question:
    """The same question of fewer items."""
    counts = question.counts
    return replace(question, counts=lambda row: counts(row) and keep(row))


def lines(asked: Iterable[Asked], old: Rows, new: Rows, config: CompareConfig) -> list[Line]:
    """A line per question that has items, and per judge where there are several; one Holm family.

    Args:
        asked: in the table's order.
        old: its judged rows.
        new: of the same items in the same order.
        config: level of the marks, and the rates' intervals.
    """
    both = list(zip(old, new, strict=True))
    found = [line for one in asked for line in _by_judge(one, both, config.interval)]
    return [
        Line.model_validate(
            {**dict(line), "p_holm": p, "mark": _mark(line, worse, p, config.alpha)}
        )
        for (line, worse), p in zip(found, holm([line.p for line, _ in found]), strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (S. Holm, Scand. J. Statist. 6 (1979) 65-70)."""
    order, corrected, highest = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def two_sided(pairs: Pairs) -> float:
    """The exact sign test over groups, for a difference in either direction."""
    return min(1.0, 2 * min(pairs.lower_p(), pairs.higher_p()))


def macro(lines: Sequence[Line], name: str, what: str) -> Mean:
    """The mean of some rates, each with equal weight, and the interval of its difference.

    Tango's intervals of the rates are combined by MOVER (G. Y. Zou and A. Donner, Statistics in
    Medicine 27 (2008) 1693-1702): a bootstrap would give a width of nothing where a rate is 0 or 1.

    Args:
        lines: of different items.
        name: in JSON.
        what: in words.
    """
    reach = [
        float(np.sqrt(np.sum([end(one) ** 2 for one in lines]))) / len(lines)
        for end in (lambda one: one.difference - one.low, lambda one: one.high - one.difference)
    ]
    change = float(np.mean([one.difference for one in lines]))
    return Mean(
        name=name,
        what=what,
        n=sum(one.n for one in lines),
        old=float(np.mean([one.old.value for one in lines])),
        new=float(np.mean([one.new.value for one in lines])),
        difference=change,
        low=change - reach[0],
        high=change + reach[1],
        method="tango_mover",
    )


def _by_judge(asked: Asked, both: Sequence[BOTH], interval: Interval) -> list[tuple[Line, int]]:
    kept: dict[str, list[BOTH]] = {}
    for pair in both:
        if asked.question.counts(pair[0]):
            kept.setdefault(pair[0]["judge"], []).append(pair)
    worse = asked.question.worse
    return [(_line(asked, judge, kept[judge], interval), worse) for judge in sorted(kept)]


def _line(asked: Asked, judge: str, both: Sequence[BOTH], interval: Interval) -> Line:
    old, new = (
        np.array([asked.question.hit(pair[side]) for pair in both], dtype=bool) for side in (0, 1)
    )
    pairs = Pairs.of(new, old, np.array([pair[0]["group_id"] for pair in both]))
    low, high = pairs.interval(0.025)
    p = two_sided(pairs)
    told: Mapping[str, object] = {
        "name": asked.name, "what": asked.what, "judge": judge, "n": pairs.n,
        "old": rate(old, interval), "new": rate(new, interval), "difference": pairs.difference,
        "low": low, "high": high, "effect": pairs.effect, "p": p, "p_holm": p, "mark": "",
    }  # fmt: skip
    return Line.model_validate(told)


def _mark(line: Line, worse: int, p: float, alpha: float) -> Mark:
    """Better or worse, where test and interval both say so."""
    if p > alpha or line.low <= 0 <= line.high:
        return ""
    return "worse" if line.difference * worse > 0 else "better"
