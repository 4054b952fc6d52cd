"""Evaluate a stage at the operating points of a sweep: same items, same model, other thresholds."""

import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.answers import AnswerCache
from infra.store import Store
from schemas.artifact import Artifact
from schemas.sweep import PointsConfig
from tasks.evaluate.judging import Judge
from tasks.evaluate.kept import answered_once
from tasks.evaluate.question import Question
from tasks.evaluate.step import ITEMS, as_evaluated, held_out_rows, judged_item
from tasks.progress import progress

STEP, VERSION = "evaluate_points", 1
THRESHOLDS = "thresholds.json"


def evaluate_points(
    config: PointsConfig,
    base: Artifact,
    labelled: Artifact,
    features: Artifact,
    model: Artifact,
    *,
    store: Store,
) -> Artifact:
    """`items.parquet` (a judged row per item and operating point) and `thresholds.json` by point.

    Killed and run again it asks nothing that has been answered.

    The guard's threshold at `matched` is set on the benign items evaluated here, as a miss rate
    at a fixed false-positive rate usually is: it compares models, it is no forecast.

    Args:
        config: answers, judging, and the rate to match.
        base: the base model.
        labelled: its test split is what is asked.
        features: the encoder's features of the same images.
        model: a trained stage.
        store: where artifacts live.

    Raises:
        DataError: no test items.
    """
    parents = {"base": base, "labelled": labelled, "features": features, "model": model}
    return answered_once(
        STEP,
        VERSION,
        partial(_build, config, parents, store),
        config=config.model_dump(),
        parents=parents,
        inputs=as_evaluated(config.evaluate),
        store=store,
    )


def read_points(artifact: Artifact, *, store: Store) -> tuple[pa.Table, dict[str, float]]:
    """The judged rows of all operating points (column `point`), and the thresholds by point."""
    folder = store.local(artifact)
    return pq.read_table(folder / ITEMS), json.loads((folder / THRESHOLDS).read_bytes())


def _build(
    config: PointsConfig,
    parents: dict[str, Artifact],
    store: Store,
    kept: AnswerCache,
    folder: Path,
) -> dict[str, int]:
    from tasks.evaluate.operate import Operator

    rows = held_out_rows(store.local(parents["labelled"]))
    operator = Operator.of(config.evaluate, parents, store, kept)
    asked = [Question.of(row) for row in rows]
    with progress(f"evaluate {parents['model'].step}", len(rows)) as tick:
        points = operator.operate(
            asked,
            rate=config.false_positive_rate,
            max_new_tokens=config.evaluate.max_new_tokens,
            tick=tick,
        )
    judge = Judge.of(rows, config.evaluate.refusal_markers)
    judged = [
        {"point": name, **judged_item(row, answer, judge)}
        for name, point in points.items()
        for row, answer in zip(rows, point.answers, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(judged), folder / ITEMS)
    thresholds = {name: point.threshold for name, point in points.items()}
    (folder / THRESHOLDS).write_text(json.dumps(thresholds, indent=1), encoding="utf-8")
    return {"items": len(rows), "points": len(points)}
