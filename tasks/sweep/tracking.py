"""A sweep in MLflow: one run for the sweep, and below it one for every point."""

from collections.abc import Sequence
from typing import Any

from infra.registry import Registry, Run
from infra.store import Store
from schemas.artifact import Artifact
from schemas.sweep import SWEEP_METRICS, SweepPoint
from tasks.sweep.files import read_rows

SIZES = ("unsafe_items", "clean_items", "steps", "threshold")


def log_sweep(table: Artifact, points: Sequence[SweepPoint], *, store: Store) -> str:
    """Log a sweep once, however often it is called; returns the run's id.

    Runs are keyed by the table's fingerprint, so that the same sweep is the same runs.

    Args:
        table: the sweep artifact; its files go with the run.
        points: the sweep's points, failed ones too.
        store: where artifacts live.

    Raises:
        StorageError: MLflow cannot be reached or used.
    """
    registry = Registry()
    registry.check(store.root)
    config = store.manifest(table).config
    params = {name: config[name] for name in ("ratios", "seeds", "total", "false_positive_rate")}
    whole = whole_run(table, name="ratio sweep", kind="sweep", params=params, store=store)
    parent = registry.log_run(whole)
    rows = read_rows(table, store=store).to_pylist()
    for point in points:
        own = [r for r in rows if (r["ratio"], r["seed"]) == (point.ratio, point.seed)]
        registry.log_run(_run(point, own, table), parent=parent)
    return parent


def whole_run(
    table: Artifact, *, name: str, kind: str, params: dict[str, Any], store: Store
) -> Run:
    """The parent of a table's points: its counts, and its files.

    Args:
        table: the artifact of all points.
        name: what it is, for people.
        kind: what it is, as a tag.
        params: what was asked for.
        store: where artifacts live.
    """
    return Run(
        key=table.fingerprint,
        name=f"{name} {table.fingerprint[:8]}",
        params=params,
        metrics={name: float(count) for name, count in table.counts.items()},
        tags={"kind": kind, "uri": table.uri},
        files={path.name: path for path in sorted(store.local(table).iterdir())},
    )


def _run(point: SweepPoint, rows: Sequence[dict[str, Any]], table: Artifact) -> Run:
    """A point's run: its numbers by stage and operating point, and the models behind them."""
    done = [row for row in rows if not row["error"]]
    metrics = {
        f"{row['stage']}/{row['point']}/{name}{end}": row[f"{name}{end}"]
        for row in done
        for name in SWEEP_METRICS
        for end in ("", "_low", "_high")
        if row[name] is not None
    }
    metrics |= {
        f"{row['stage']}/{row['point']}/{name}": float(row[name]) for row in done for name in SIZES
    }
    tags = {"kind": "sweep point", "state": "failed" if point.error else "done"}
    tags |= {stage: result.model.uri for stage, result in point.stages.items()}
    return Run(
        key=f"{table.fingerprint}/{point.ratio!r}/{point.seed}",
        name=f"ratio {point.ratio:g} seed {point.seed}",
        params={"clean_per_unsafe": point.ratio, "seed": point.seed},
        metrics=metrics,
        tags={**tags, **({"error": point.error} if point.error else {})},
    )
