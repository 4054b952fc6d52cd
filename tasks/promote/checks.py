"""The conditions of the gate, counted from judged rows; all of them must hold.

Each is a test at the gate's alpha of "the candidate is not good enough" on its own; where all must
reject, the whole needs no correction for their number (R. L. Berger, Multiparameter hypothesis
testing and acceptance sampling, Technometrics 24 (1982) 295-300).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.decision import Check
from schemas.gate import GateConfig
from schemas.report import METRICS, Metric
from tasks.evaluate.intervals import wilson
from tasks.promote.paired import Pairs
from tasks.promote.questions import JOINED, NEAR, QUESTIONS, Question, Rows

ANCHOR = "anchor"


def compare(
    candidate: Rows, others: Mapping[str, Rows], *, against: str, gate: GateConfig
) -> list[Check]:
    """All conditions.

    Args:
        candidate: its judged rows.
        others: opponent -> judged rows of the same items, in the same order. What may not get
            worse is compared with each of them. The `anchor` among them is compared with by the
            budgets, so that many small losses do not add up from one champion to the next.
        against: the opponent that must do worse where a minimum effect is asked for.
        gate: alpha and bars.
    """
    bars = {name: gate.metrics[name] for name in QUESTIONS if name in gate.metrics}
    checks = [
        _superior(name, candidate, others[against], against=against, gate=gate)
        for name, bar in bars.items()
        if bar.minimum_effect is not None
    ]
    for name, bar in bars.items():
        for other, rows in others.items():
            allowed = bar.budget if other == ANCHOR else bar.margin
            if allowed is not None:
                checks.append(
                    _not_inferior(name, candidate, rows, against=other, gate=gate, allowed=allowed)
                )
    return checks


@dataclass(frozen=True)
class _Seen:
    """One question asked of both models."""

    pairs: Pairs
    candidate: Metric
    reference: Metric
    low: float
    high: float

    @classmethod
    def of(cls, question: Question, candidate: Rows, reference: Rows, *, alpha: float) -> "_Seen":
        both = zip(candidate, reference, strict=True)
        kept = [(one, other) for one, other in both if question.counts(one)]
        first = np.array([question.hit(one) for one, _ in kept], dtype=bool)
        second = np.array([question.hit(other) for _, other in kept], dtype=bool)
        pairs = Pairs.of(first, second, np.array([one["group_id"] for one, _ in kept]))
        low, high = pairs.interval(alpha)
        # As `rate` of an evaluation says it, without the exact test that comes with scipy's.
        rates = (
            wilson(float(own.mean()) if len(own) else 0.0, len(own)) for own in (first, second)
        )
        return cls(pairs, *rates, low, high)

    def check(self, name: str, *, against: str, **verdict: Any) -> Check:
        return Check(
            name=f"{name}/{against}",
            what=METRICS[name],
            n=self.pairs.n,
            candidate=self.candidate,
            reference=self.reference,
            difference=self.pairs.difference,
            low=self.low,
            high=self.high,
            effect=self.pairs.effect,
            **verdict,
        )


def _superior(
    name: str, candidate: Rows, reference: Rows, *, against: str, gate: GateConfig
) -> Check:
    question, least = QUESTIONS[name], gate.metrics[name].minimum_effect or 0.0
    seen = _Seen.of(question, candidate, reference, alpha=gate.alpha)
    told = f"{_what(name)}: {_percent(seen.candidate)} against {_percent(seen.reference)} of the "
    told += f"{against}, "
    better = "lower" if question.worse > 0 else "higher"
    if not least:
        p = seen.pairs.lower_p() if question.worse > 0 else seen.pairs.higher_p()
        passed = seen.pairs.difference * question.worse < 0 and p <= gate.alpha
        told += f"p = {p:.2g}, must be {better} with p at most {gate.alpha:.2g}"
        verdict: dict[str, Any] = {"p": p, "bar": gate.alpha}
    else:
        bar = -question.worse * least
        end = seen.high if question.worse > 0 else seen.low
        passed = end * question.worse < bar * question.worse
        told += f"the difference may be {100 * end:+.1f} points, must stay beyond {100 * bar:+.1f}"
        verdict = {"bar": bar}
    verdict |= {"test": "superior", "passed": passed, "reason": told}
    return seen.check(name, against=against, **verdict)


def _not_inferior(  # noqa: PLR0913 - a rate, two models, a bar
    name: str,
    candidate: Rows,
    reference: Rows,
    *,
    against: str,
    gate: GateConfig,
    allowed: float,
) -> Check:
    question = QUESTIONS[name]
    added = JOINED.get(name, "")
    if few := _few(added, candidate, gate):
        question = question.joined(QUESTIONS[added])
    seen = _Seen.of(question, candidate, reference, alpha=gate.alpha)
    bar = question.worse * allowed
    passed: bool | None = seen.high < bar if question.worse > 0 else seen.low > bar
    end, sense = (seen.high, "below") if question.worse > 0 else (seen.low, "above")
    reason = (
        f"{_what(name)}: {_percent(seen.candidate)} against {_percent(seen.reference)} of the "
        f"{against}; the difference may reach {100 * end:+.1f} points, must stay {sense} "
        f"{100 * bar:+.1f}"
    )
    if few:
        reason += f"; {few} {NEAR[added]} count among them"
    if _few(name, candidate, gate) is not None:
        passed = None
        reason = (
            f"not judged apart: {seen.pairs.n} {NEAR[name]}, the gate asks for "
            f"{gate.min_near_miss}; they count among the ordinary ones"
        )
    verdict = {"test": "not_inferior", "bar": bar, "passed": passed, "reason": reason}
    return seen.check(name, against=against, **verdict)


def _few(name: str, rows: Rows, gate: GateConfig) -> int | None:
    """How many items a rate of near misses has, if they are too few; None for other rates too."""
    if name not in NEAR:
        return None
    count = sum(map(QUESTIONS[name].counts, rows))
    return count if count < gate.min_near_miss else None


def _what(name: str) -> str:
    return METRICS[name].removesuffix(" (lower is better)")


def _percent(metric: Metric) -> str:
    return f"{100 * metric.value:.1f} %"
