"""The section of a report on one arm's guard, from the judged rows of its evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from schemas.report import WILSON, Interval, Metric
from schemas.taxonomy import CLEAN
from tasks.depth.scores import BUDGETS, auroc, ece, reliability, trade
from tasks.evaluate.intervals import clustered, rate

DRAWS, SEED = 500, 0  # of the bootstrap over image groups
BY_LEVEL = "no type, by its level alone"
SLICES = ("source", "style", "risk_level", "near_miss")
Rows = Sequence[dict[str, Any]]


def depth(arm: str, rows: Rows, interval: Interval = WILSON) -> dict[str, Any]:
    """Calibration, trade, errors and slices; what an arm without a head lacks is left out.

    Args:
        arm: its name.
        rows: judged rows (items.parquet of evaluate).
        interval: of rates.
    """
    told: dict[str, Any] = {"arm": arm, "slices": _slices(rows, interval)}
    seen = [row for row in rows if row["risk"] is not None]
    risky = np.array([row["risk_type"] != CLEAN for row in seen], dtype=bool)
    if not risky.any() or risky.all():  # nothing to tell apart
        return told if told["slices"] else {}
    scores = np.array([row["risk"] for row in seen], dtype=float)
    return {
        **told,
        "calibration": {
            "ece": _bootstrapped(ece, scores, risky, seen),
            "bins": reliability(scores, risky, interval),
        },
        "trade": _trade(seen, scores, risky, interval),
        "errors": _errors(seen, interval),
    }


def _bootstrapped(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    scores: np.ndarray,
    risky: np.ndarray,
    rows: Rows,
) -> dict[str, Any]:
    groups = np.array([row["group_id"] for row in rows])
    found = clustered(lambda i: statistic(scores[i], risky[i]), groups, draws=DRAWS, seed=SEED)
    return found.model_dump()


def _trade(rows: Rows, scores: np.ndarray, risky: np.ndarray, interval: Interval) -> dict[str, Any]:
    """AUROC over all items, and over near misses alone; misses at budgets, and as it is used."""
    curve = trade(scores, risky)
    near = np.array([bool(row["near_miss"]) for row in rows], dtype=bool)
    hard = risky | near
    told = {"auroc": _bootstrapped(auroc, scores, risky, rows), "curve": curve.drawn()}
    if near.any():
        own = [row for row, kept in zip(rows, hard, strict=True) if kept]
        told["auroc_near"] = _bootstrapped(auroc, scores[hard], risky[hard], own)
    places = [curve.within(budget) for budget in BUDGETS]
    told["budgets"] = [
        {
            "budget": budget,
            "flagged": _rate(scores[~risky] >= curve.thresholds[place], interval),
            "missed": _rate(scores[risky] < curve.thresholds[place], interval),
        }
        for budget, place in zip(BUDGETS, places, strict=True)
    ]
    flagged = np.array([row["flagged"] for row in rows], dtype=bool)
    told["used"] = {
        "flagged": _rate(flagged[~risky], interval),
        "missed": _rate(~flagged[risky], interval),
    }
    return told


def _errors(rows: Rows, interval: Interval) -> list[dict[str, Any]]:
    """By type: clean items accused of it, ordinary ones and near misses apart, and its misses."""
    kinds = {
        "clean": [r for r in rows if r["risk_type"] == CLEAN and not r["near_miss"]],
        "near": [r for r in rows if r["risk_type"] == CLEAN and r["near_miss"]],
    }
    types = {row["risk_type"] for row in rows} | {row["seen_type"] for row in rows}
    table = []
    for name in [*sorted(types - {CLEAN}), CLEAN]:
        hits = {
            kind: [r["flagged"] and r["seen_type"] == name for r in own]
            for kind, own in kinds.items()
        }
        found = {f"{kind}_flagged": _rate(own, interval) for kind, own in hits.items()}
        risky = [] if name == CLEAN else [row for row in rows if row["risk_type"] == name]
        found["missed"] = _rate([not row["flagged"] for row in risky], interval)
        table.append({"type": BY_LEVEL if name == CLEAN else name, **found})
    totals = {
        f"{kind}_flagged": _rate([r["flagged"] for r in own], interval)
        for kind, own in kinds.items()
    }
    missed = _rate([not row["flagged"] for row in rows if row["risk_type"] != CLEAN], interval)
    return [*table, {"type": "", **totals, "missed": missed}]


def _slices(rows: Rows, interval: Interval) -> list[dict[str, Any]]:
    """By the values of each slice that divides the items: what is obeyed, missed, refused."""
    table = []
    for by in SLICES:
        values = sorted({row[by] for row in rows if row[by] not in (None, "")})
        for value in values if len(values) > 1 else ():
            own = [row for row in rows if row[by] == value]
            risky = [row for row in own if row["risk_type"] != CLEAN]
            clean = [row for row in own if row["risk_type"] == CLEAN]
            guarded = [row for row in own if row["flagged"] is not None]
            hits = {
                "obeyed": [row["outcome"] == "obeyed" for row in risky],
                "missed": [not r["flagged"] for r in guarded if r["risk_type"] != CLEAN],
                "refused": [row["outcome"] == "refused" for row in clean],
                "flagged": [r["flagged"] for r in guarded if r["risk_type"] == CLEAN],
            }
            found = {name: _rate(own, interval) for name, own in hits.items()}
            table.append({"by": by.replace("_", " "), "value": _word(value), **found})
    return table


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _rate(hits: Sequence[bool] | np.ndarray, interval: Interval) -> dict[str, Any]:
    found: Metric = rate(np.array(hits, dtype=bool), interval)
    return found.model_dump()
