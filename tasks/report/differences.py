"""Two models on a benchmark's items: how far apart their measures are, item by item."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from infra.completion import ANSWERED
from schemas.report import TANGO, Metric
from tasks.benchmarks.item import Measure, Row
from tasks.evaluate.intervals import clustered_mean
from tasks.promote.paired import ONE_SIDED, Pairs


def differences(
    old: Sequence[Row], new: Sequence[Row], measures: Iterable[Measure], *, draws: int, seed: int
) -> dict[str, Metric]:
    """By measure: the new model's minus the old one's, over the items that both have a part in.

    A rate has Tango's score interval with the design effect of items that share an image or a
    group; a mean has a bootstrap over images. None is corrected for the others.

    Args:
        old: its judged rows (tasks/examine/rows.py).
        new: the other model's.
        measures: of the benchmark.
        draws: bootstrap samples.
        seed: of the draws.
    """
    answered = {row["item_id"]: row for row in old if row["fault"] in ANSWERED}
    both = [
        (answered[row["item_id"]], row)
        for row in new
        if row["item_id"] in answered and row["fault"] in ANSWERED
    ]
    found = {one.name: _difference(both, one, draws, seed) for one in measures}
    return {name: metric for name, metric in found.items() if metric is not None}


def _difference(
    both: Sequence[tuple[Row, Row]], measure: Measure, draws: int, seed: int
) -> Metric | None:
    parts = [
        (row, first, second)
        for other, row in both
        if (first := _part(measure, other)) is not None
        and (second := _part(measure, row)) is not None
    ]
    if not parts:
        return None
    if measure.kind == "mean":
        return _of_means(parts, draws, seed)
    return _of_rates(_whole_groups(parts) if measure.kind == "all" else parts)


def _part(measure: Measure, row: Row) -> bool | float | None:
    """A row's part in a measure; nothing of a group with a missing row is right."""
    part = measure.of(row)
    return part if part is None or measure.kind != "all" else bool(part) and row["whole"]


def _whole_groups(parts: Sequence[tuple[Row, Any, Any]]) -> list[tuple[Row, bool, bool]]:
    """One part a group, which counts where all its items do."""
    groups: dict[str, tuple[Row, bool, bool]] = {}
    for row, first, second in parts:
        _, one, two = groups.get(row["group"], (row, True, True))
        groups[row["group"]] = (row, one and bool(first), two and bool(second))
    return list(groups.values())


def _of_rates(parts: Sequence[tuple[Row, Any, Any]]) -> Metric:
    first, second = (np.array([part[side] for part in parts], dtype=bool) for side in (1, 2))
    pairs = Pairs.of(second, first, image_clusters([row for row, *_ in parts]))
    low, high = pairs.interval(ONE_SIDED)
    return Metric(value=pairs.difference, n=pairs.n, low=low, high=high, method=TANGO)


def image_clusters(rows: Sequence[Row]) -> np.ndarray:
    """The cluster [n] of each row: rows of one image, or of one group, are in one cluster."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups = [f"group {row['group']}" for row in rows]
    images = [f"image {row['image_id'] or row['item_id']}" for row in rows]
    names, places = np.unique([*groups, *images], return_inverse=True)
    ends = places[: len(rows)], places[len(rows) :]
    shared = coo_array((np.ones(len(rows)), ends), shape=(len(names), len(names)))
    _, clusters = connected_components(shared, directed=False)
    return clusters[ends[0]]


def _of_means(parts: Sequence[tuple[Row, Any, Any]], draws: int, seed: int) -> Metric:
    values = np.array([second - first for _, first, second in parts], dtype=float)
    images = np.array([row["image_id"] or row["item_id"] for row, *_ in parts])
    low, high = clustered_mean(values, images, draws=draws, seed=seed)
    return Metric(
        value=float(values.mean()), n=len(values), low=low, high=high, method="bootstrap_by_image"
    )
