"""An ablation in MLflow: one run for the whole, and below it one for every method and seed."""

from collections.abc import Sequence
from typing import Any

from infra.fingerprint import content_hash
from infra.registry import Registry, Run
from infra.store import Store
from schemas.ablation import ABLATION_METRICS, PARTS, MethodPoint
from schemas.artifact import Artifact
from schemas.config import NOTHING
from tasks.sweep.files import read_rows
from tasks.sweep.tracking import whole_run


def log_ablation(table: Artifact, points: Sequence[MethodPoint], *, store: Store) -> str:
    """Log an ablation once, however often it is called; returns the run's id.

    Runs are keyed by the table's fingerprint, so that the same ablation is the same runs.

    Args:
        table: the ablation artifact; its files go with the run.
        points: all methods and seeds, failed ones too.
        store: where artifacts live.

    Raises:
        StorageError: MLflow cannot be reached or used.
    """
    registry = Registry()
    registry.check(store.root)
    config = store.manifest(table).config
    names = {"methods": "order", "seeds": "seeds", "held_out": "held_out"}
    params = {name: config[key] for name, key in names.items()}
    whole = whole_run(table, name="ablation", kind="ablation", params=params, store=store)
    parent = registry.log_run(whole)
    rows = {(row["method"], row["seed"]): row for row in read_rows(table, store=store).to_pylist()}
    for point in points:
        known = rows.get((point.method, point.seed)) if point.held_out == NOTHING else None
        registry.log_run(_run(point, known or {}, table), parent=parent)
    return parent


def _run(point: MethodPoint, row: dict[str, Any], table: Artifact) -> Run:
    """A point's run: its numbers, and the model and answers behind them.

    One that was trained without something has its numbers in the table's own file alone.
    """
    metrics = {
        f"{name}{end}": row[f"{name}{end}"]
        for name in ABLATION_METRICS
        for end in ("", "_low", "_high")
        if row.get(f"{name}{end}") is not None
    }
    tags = {"kind": "ablation point", "state": "failed" if point.error else "done"}
    made = {"model": point.model, "evaluation": point.evaluated}
    tags |= {name: artifact.uri for name, artifact in made.items() if artifact is not None}
    parts = {name: getattr(point.parts, name) for name in PARTS}
    return Run(
        # A method's file may be called anything, a key may not.
        key=f"{table.fingerprint}/{content_hash(point.name)[:16]}",
        name=point.name,
        params={
            "method": point.method,
            "seed": point.seed,
            **parts,
            "without": point.held_out.told,
        },
        metrics=metrics,
        tags={**tags, **({"error": point.error} if point.error else {})},
    )
