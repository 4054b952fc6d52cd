"""A risk score against the truth: does its size mean what it says, does it tell risky from clean?

Scores (n,) in 0..1 are the guard's, read as the probability that an item is risky; `risky` (n,)
says which items are.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from schemas.report import WILSON, Interval
from tasks.evaluate.intervals import rate

BINS = 10
MOST_POINTS = 300  # of a drawn curve
BUDGETS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def auroc(scores: np.ndarray, risky: np.ndarray) -> float:
    """The chance that a risky item scores above a clean one, ties counting half (Mann-Whitney).

    0.5, which is no better than a coin, where there are none of either.
    """
    many, few = int(risky.sum()), int((~risky).sum())
    if not many or not few:
        return 0.5
    ranks = rankdata(scores)[risky].sum()
    return float((ranks - many * (many + 1) / 2) / (many * few))


def ece(scores: np.ndarray, risky: np.ndarray) -> float:
    """Expected calibration error: sum over bins of n_b / n |mean score - share risky|.

    Ten bins of equal width (Guo et al., arXiv 1706.04599). With few items it is too large, never
    too small: chance alone parts the two means.
    """
    places = _bins(scores)
    gaps = np.bincount(places, scores - risky, minlength=BINS)
    return float(np.abs(gaps).sum() / len(scores))


def reliability(
    scores: np.ndarray, risky: np.ndarray, interval: Interval = WILSON
) -> list[dict[str, float]]:
    """Per bin that has items: n, mean score, share risky with its interval."""
    places, found = _bins(scores), []
    for number in range(BINS):
        here = places == number
        if here.any():
            share = rate(risky[here], interval)
            found.append(
                {
                    "n": share.n,
                    "score": float(scores[here].mean()),
                    "risky": share.value,
                    "low": share.low,
                    "high": share.high,
                }
            )
    return found


def _bins(scores: np.ndarray) -> np.ndarray:
    return np.minimum((scores * BINS).astype(int), BINS - 1)


@dataclass(frozen=True)
class Trade:
    """Every threshold that tells scores apart, from none flagged to all: two shares (m,) each.

    `flagged` of the clean items, rising, and `missed` of the risky ones, falling.
    """

    thresholds: np.ndarray
    flagged: np.ndarray
    missed: np.ndarray

    def within(self, budget: float) -> int:
        """The point with the fewest misses that flags at most this share of clean items."""
        return int(np.flatnonzero(self.flagged <= budget + 1e-12)[-1])

    def drawn(self) -> list[list[float]]:
        """At most MOST_POINTS pairs (flagged, missed), the ends among them."""
        corners = np.unique(np.linspace(0, len(self.flagged) - 1, MOST_POINTS).round().astype(int))
        return np.column_stack([self.flagged, self.missed])[corners].tolist()


def trade(scores: np.ndarray, risky: np.ndarray) -> Trade:
    """Misses against false positives; an item is flagged at or above the threshold.

    Equal scores are flagged together. Both kinds of items must be there.
    """
    thresholds = np.concatenate([[np.inf], np.unique(scores)[::-1]])
    clean, bad = np.sort(scores[~risky]), np.sort(scores[risky])
    flagged = 1 - np.searchsorted(clean, thresholds, "left") / len(clean)
    missed = np.searchsorted(bad, thresholds, "left") / len(bad)
    return Trade(thresholds, flagged, missed)
