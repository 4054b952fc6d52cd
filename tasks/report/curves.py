"""The loss of every trained part, as the stages wrote it down step by step."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from infra.store import Store
from tasks.report.inputs import ReportInputs
from tasks.train.job import CURVE

MOST_POINTS = 1500  # of a drawn line; a long run's steps are averaged down to it


@dataclass(frozen=True)
class Curve:
    """steps and losses (n,) float64, a point for `every` steps; `window` points make a mean."""

    steps: np.ndarray
    losses: np.ndarray
    every: int
    window: int


def read_curves(inputs: ReportInputs, store: Store) -> dict[str, Curve]:
    """Curves by `stage/part`; a stage without losses on record has none."""
    curves = {}
    stages = (("stage1", inputs.stage1), ("stage2", inputs.stage2))
    for name, stage in stages:
        path = store.local(stage) / CURVE if stage else None
        if path is None or not path.is_file():
            continue
        table = pq.read_table(path)
        parts = list(dict.fromkeys(table["part"].to_pylist()))
        named = np.asarray(table["part"].to_pylist())
        steps, losses = np.asarray(table["step"]), np.asarray(table["loss"])
        for part in parts:
            curves[f"{name}/{part}"] = _thinned(steps[named == part], losses[named == part])
    return curves


def summed_up(curves: dict[str, Curve]) -> list[dict[str, Any]]:
    """First and last mean loss of every part."""
    told = []
    for name, curve in curves.items():
        _, means = smoothed(curve)
        ends = {"first": float(means[0]), "last": float(means[-1])}
        told.append({"part": name, "steps": int(curve.steps[-1]), **ends})
    return told


def smoothed(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Steps and running means over `window` points, each at the middle of its window."""
    sums = np.cumsum(np.insert(curve.losses, 0, 0.0))
    means = (sums[curve.window :] - sums[: -curve.window]) / curve.window
    start = curve.window // 2
    return curve.steps[start : start + len(means)], means


def _thinned(steps: np.ndarray, losses: np.ndarray) -> Curve:
    every = -(-len(steps) // MOST_POINTS)
    whole = len(steps) // every * every
    kept = losses[:whole].reshape(-1, every).mean(1)
    return Curve(
        steps=steps[every - 1 : whole : every].astype(float),
        losses=kept,
        every=every,
        window=min(len(kept), max(5, len(kept) // 20)),
    )
