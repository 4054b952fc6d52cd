"""Judged rows -> a row per method and seed, and one per method over all seeds that succeeded."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.ablation import (
    ABLATION_METRICS,
    PARTS,
    AblationRow,
    EqualRow,
    HeldOutRow,
    MethodPoint,
)
from schemas.config import EvaluateConfig
from tasks.sweep.columns import columns, flattened
from tasks.sweep.metrics import clustered_metrics


class Tables(NamedTuple):
    """All that an ablation tells: methods as they are used, guards at equal attack success, and
    items of what was not learnt from.
    """

    rows: Sequence[AblationRow]
    equal: Sequence[EqualRow] = ()
    held_out: Sequence[HeldOutRow] = ()


def ablation_rows(
    points: Sequence[MethodPoint], judged: Mapping[str, pa.Table], config: EvaluateConfig
) -> list[AblationRow]:
    """Methods in the order asked: each seed, failed ones with their reason, then all together.

    Args:
        points: all methods and seeds.
        judged: fingerprint of an evaluation -> its rows.
        config: draws and seed of the intervals.
    """
    rows: list[AblationRow] = []
    for method in dict.fromkeys(point.method for point in points):
        own = [point for point in points if point.method == method]
        tables = []
        for point in own:
            if point.evaluated is None:
                rows.append(_row(point, seed=point.seed, seeds=1, error=point.error))
                continue
            tables.append(judged[point.evaluated.fingerprint])
            metrics = clustered_metrics(tables[-1], ABLATION_METRICS, config)
            rows.append(_row(point, seed=point.seed, seeds=1, metrics=metrics))
        if tables:
            metrics = clustered_metrics(pooled(tables), ABLATION_METRICS, config)
            rows.append(_row(own[0], seed=None, seeds=len(tables), metrics=metrics))
    return rows


def pooled(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all seeds: a mean over them is the mean of the seeds, an image is one cluster."""
    return pa.concat_tables(tables, promote_options="permissive")


def summary(rows: Sequence[AblationRow]) -> list[AblationRow]:
    """One row a method: over all seeds, or that of a method which failed with every seed."""
    chosen: dict[str, AblationRow] = {}
    for row in rows:
        if row.seed is None or row.method not in chosen:
            chosen[row.method] = row
    return list(chosen.values())


def flat(row: AblationRow) -> dict[str, Any]:
    """A row as it is written; all metrics are null if it failed."""
    return flattened(row.model_dump(exclude={"metrics"}), row.metrics, ABLATION_METRICS)


def table_schema() -> pa.Schema:
    """The columns of the written table."""
    kinds = {"seed": pa.int64(), "seeds": pa.int64()}
    names = [name for name in AblationRow.model_fields if name != "metrics"]
    facts = [(name, kinds.get(name, pa.string())) for name in names]
    return pa.schema([*facts, *columns(ABLATION_METRICS)])


def _row(point: MethodPoint, **facts: Any) -> AblationRow:
    parts = {name: getattr(point.parts, name) for name in PARTS}
    if point.parts.head == "none":
        parts |= {"query": "none", "threshold": "none"}  # nothing asks, nothing is held to it
    return AblationRow(method=point.method, **parts, **facts)
