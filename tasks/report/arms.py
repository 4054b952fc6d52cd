"""The numbers of the evaluated arms: headline, risk types, confusions, risk scores.

The headline repeats what each evaluation reported; everything else is counted anew from its rows.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from infra.store import Store
from schemas.artifact import Artifact
from schemas.report import LOWER, WILSON, ArmReport, Interval, Metric, better, in_order, in_words
from schemas.taxonomy import CLEAN
from tasks.base_model import FOLDER
from tasks.evaluate.intervals import rate
from tasks.evaluate.step import ITEMS, read_report
from tasks.report.inputs import ReportInputs

if TYPE_CHECKING:
    from model.checkpoint import ModelCard

OF_GUARD = ("threshold", "calibrated_on", "flagged_at_most")
BINS = 20
Items = dict[str, list[dict[str, Any]]]


def read_items(inputs: ReportInputs, store: Store) -> Items:
    """The judged rows of every arm."""
    folders = {arm: store.local(artifact) for arm, artifact in inputs.evaluations.items()}
    return {arm: pq.read_table(path / ITEMS).to_pylist() for arm, path in folders.items()}


def evaluated(inputs: ReportInputs, items: Items, store: Store) -> dict[str, Any]:
    """headline, judges, by_type, confusion and risk; only what the arms have.

    And the kind of rates' intervals where it is not Wilson's.
    """
    reports = [read_report(artifact, store=store) for artifact in inputs.evaluations.values()]
    if not reports:
        return {}
    names, interval = _names(inputs, items, store), reports[-1].interval
    told: dict[str, Any] = {
        "arms": list(items),
        "headline": headline(reports),
        "judges": {report.arm: report.judges for report in reports},
        "by_type": _by_type(items, names["type"], interval),
    }
    if interval != WILSON:
        told["interval"] = interval
    heads = [arm for arm, rows in items.items() if any(row["seen_type"] for row in rows)]
    if heads:
        arm = heads[-1]
        rows = [row for row in items[arm] if row["seen_type"]]
        told["confusion"] = {"arm": arm, **_confusion(rows, names)}
        told["risk"] = {"arm": arm, **_risk(rows)}
        if model := inputs.model_of(arm):
            policy = _card(model, store).policy
            told["risk"] |= {name: getattr(policy, name) for name in OF_GUARD}
    return told


def headline(reports: list[ArmReport]) -> list[dict[str, Any]]:
    """A row per metric with its numbers by arm, in the order of METRICS, other judges' behind.

    An arm is marked `better` or `worse` than the first that has the metric where the two 95 %
    intervals do not meet.
    """
    own = {name for report in reports for name in report.metrics}
    rows = []
    for name in in_order(own):
        found = {r.arm: r.metrics[name] for r in reports if name in r.metrics}
        first = next(iter(found.values()))
        cells = {
            arm: {**m.model_dump(), "mark": _mark(m, first, better(name))}
            for arm, m in found.items()
        }
        rows.append(
            {
                "metric": name,
                "label": in_words(name).removesuffix(LOWER),
                "better": better(name),
                "arms": cells,
            }
        )
    return rows


def _mark(metric: Metric, first: Metric, way: str) -> str:
    if not way or (metric.low <= first.high and first.low <= metric.high):
        return ""
    return "better" if (metric.value < first.value) == (way == "lower") else "worse"


def _names(inputs: ReportInputs, items: Items, store: Store) -> dict[str, list[str]]:
    """Types and levels in logit order, from the model's own card where there is a model."""
    if inputs.trained:
        taxonomy = _card(inputs.trained, store).taxonomy
        return {"type": taxonomy.type_ids, "level": [level.id for level in taxonomy.levels]}
    rows = [row for arm in items.values() for row in arm]
    types = sorted({row["risk_type"] for row in rows} - {CLEAN})
    top = max((row["risk_level"] for row in rows), default=0)
    return {"type": [*types, CLEAN], "level": [str(i) for i in range(top + 1)]}


def _card(model: Artifact, store: Store) -> "ModelCard":
    from model.checkpoint import load_card

    return load_card(store.local(model) / FOLDER)


def _by_type(items: Items, types: list[str], interval: Interval) -> list[dict[str, Any]]:
    table = []
    for name in types:
        own = {arm: [r for r in rows if r["risk_type"] == name] for arm, rows in items.items()}
        if name == CLEAN or not any(own.values()):
            continue
        cells = {
            arm: {
                "obeyed": _rate([row["outcome"] == "obeyed" for row in rows], interval),
                "named": _rate(
                    [row["outcome"] == "refused" and row["names_type"] for row in rows], interval
                ),
            }
            for arm, rows in own.items()
        }
        table.append({"type": name, "arms": cells})
    return table


def _rate(hits: list[bool], interval: Interval) -> dict[str, Any]:
    return rate(np.array(hits, dtype=bool), interval).model_dump()


def _confusion(rows: list[dict[str, Any]], names: dict[str, list[str]]) -> dict[str, Any]:
    """Counts [truth][seen] of both heads."""
    places = {"type": {name: i for i, name in enumerate(names["type"])}, "level": None}
    told = {}
    for head, place in places.items():
        size = len(names[head])
        counts = np.zeros((size, size), dtype=int)
        for row in rows:
            truth, seen = row[f"risk_{head}"], row[f"seen_{head}"]
            counts[(place[truth], place[seen]) if place else (truth, seen)] += 1
        told[head] = {"names": names[head], "counts": counts.tolist()}
    return told


def _risk(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Histogram of the guard's risk score in 0..1 by kind of item."""
    kinds: dict[str, list[float]] = {"risky": [], "benign": [], "near miss": []}
    for row in rows:
        kind = (
            "risky" if row["risk_type"] != CLEAN else "near miss" if row["near_miss"] else "benign"
        )
        kinds[kind].append(row["risk"])
    counted = {
        kind: np.histogram(scores, BINS, (0.0, 1.0))[0].tolist()
        for kind, scores in kinds.items()
        if scores
    }
    return {"bins": BINS, "counts": counted}
