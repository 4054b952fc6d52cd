"""95 % intervals: Wilson or Clopper-Pearson for rates, a bootstrap over images for means."""

from collections.abc import Callable
from math import sqrt

import numpy as np

from schemas.report import WILSON, Interval, Metric

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point
AT_ONCE = 100  # bootstrap samples held in memory together


# A rate's interval -> what scipy calls it.
SCIPY = {"wilson": "wilson", "clopper-pearson": "exact"}


def rate(hits: np.ndarray, interval: Interval = WILSON) -> Metric:
    """A share of independent items with its interval; n = 0 gives 0 in [0, 1].

    Wilson's covers 95 % on average over shares, Clopper-Pearson's at least 95 % at each, for which
    it is wider.
    """
    from scipy.stats import binomtest

    count = len(hits)
    if count == 0:
        return Metric(value=0.0, n=0, low=0.0, high=1.0, method=interval)
    ends = binomtest(int(hits.sum()), count).proportion_ci(method=SCIPY[interval])
    return Metric(
        value=float(hits.mean()),
        n=count,
        low=float(ends.low),
        high=float(ends.high),
        method=interval,
    )


def clustered(
    statistic: Callable[[np.ndarray], float], clusters: np.ndarray, *, draws: int, seed: int
) -> Metric:
    """A statistic of item indices with a percentile bootstrap that draws whole clusters (images).

    Args:
        statistic: from an index array of items to a number.
        clusters: cluster of each item, any dtype.
        draws: bootstrap samples.
        seed: of the draws.
    """
    count = len(clusters)
    if count == 0:
        return Metric(value=0.0, n=0, low=0.0, high=1.0, method="bootstrap_by_image")
    _, numbers = np.unique(clusters, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(numbers))[:-1])
    rng = np.random.default_rng(seed)
    values = [
        statistic(
            np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        )
        for _ in range(draws)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return Metric(
        value=statistic(np.arange(count)),
        n=count,
        low=float(low),
        high=float(high),
        method="bootstrap_by_image",
    )


def clustered_rate(
    hits: np.ndarray,
    clusters: np.ndarray,
    interval: Interval = WILSON,
    *,
    draws: int,
    seed: int,
) -> Metric:
    """A share of items that share images, by a bootstrap over clusters.

    Where all items hit or none, a bootstrap has nothing to vary: a rate's interval then, as if each
    cluster were one item.

    Args:
        hits: (n,) which items hit.
        clusters: (n,) cluster of each, any dtype.
        interval: of a rate.
        draws: bootstrap samples.
        seed: of the draws.
    """
    if 0 < hits.sum() < len(hits):
        values = hits.astype(float)
        return clustered(lambda i: float(values[i].mean()), clusters, draws=draws, seed=seed)
    _, firsts = np.unique(clusters, return_index=True)
    return rate(hits[firsts], interval).model_copy(update={"n": len(hits)})


def macro_f1(truth: np.ndarray, guess: np.ndarray, classes: int) -> float:
    """Mean F1 over the classes that occur in truth or guess; both are class numbers [n]."""
    table = np.bincount(truth * classes + guess, minlength=classes * classes)
    table = table.reshape(classes, classes)
    hits, present = np.diag(table), table.sum(0) + table.sum(1)
    return float((2 * hits[present > 0] / present[present > 0]).mean())


def wilson(share: float, count: int) -> Metric:
    """The Wilson interval of a share that need not be whole hits, such as a mean over seeds."""
    if count == 0:
        return Metric(value=0.0, n=0, low=0.0, high=1.0, method="wilson")
    middle = (share + Z_95**2 / (2 * count)) / (1 + Z_95**2 / count)
    spread = sqrt(share * (1 - share) / count + (Z_95 / (2 * count)) ** 2)
    half = Z_95 * spread / (1 + Z_95**2 / count)
    # At 0 and 1 the interval ends there, which floats miss by 1e-17.
    low, high = min(middle - half, share), max(middle + half, share)
    return Metric(value=share, n=count, low=max(low, 0.0), high=min(high, 1.0), method="wilson")


def clustered_mean(
    values: np.ndarray, clusters: np.ndarray, *, draws: int, seed: int
) -> tuple[float, float]:
    """95 % bounds of a mean by a bootstrap over clusters; as `clustered`, in matrix form.

    Args:
        values: (n,) numbers.
        clusters: (n,) cluster of each, any dtype.
        draws: bootstrap samples.
        seed: of the draws.
    """
    _, numbers = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(numbers, weights=values), np.bincount(numbers)
    rng = np.random.default_rng(seed)
    chances = np.full(len(sums), 1 / len(sums))
    means = []
    for first in range(0, draws, AT_ONCE):
        times = rng.multinomial(len(sums), chances, size=min(AT_ONCE, draws - first))
        means.append((times @ sums) / (times @ sizes))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
