"""Judged rows -> a row per ratio, seed, stage and operating point, and one over all seeds."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.config import EvaluateConfig
from schemas.sweep import (
    COSTS,
    POINTS,
    STAGES,
    SWEEP_METRICS,
    StageResult,
    SweepPoint,
    SweepRow,
)
from tasks.sweep.columns import columns, flattened
from tasks.sweep.metrics import metrics_of
from tasks.sweep.pareto import pareto

# Judged rows of all operating points, and the thresholds by point.
Judged = tuple[pa.Table, dict[str, float]]


def sweep_rows(
    points: Sequence[SweepPoint], judged: dict[str, Judged], config: EvaluateConfig
) -> list[SweepRow]:
    """All rows: failed points first, then by stage, operating point and ratio.

    Args:
        points: the sweep's points, failed ones too.
        judged: fingerprint of an evaluation -> what it holds.
        config: draws and seed of the bootstrap.
    """
    rows = [
        SweepRow(ratio=p.ratio, seed=p.seed, seeds=1, stage="", point="", error=p.error)
        for p in points
        if p.error
    ]
    done = [p for p in points if not p.error]
    for stage in STAGES:
        for point in POINTS:
            rows += _panel(done, judged, config, stage=stage, point=point)
    return rows


def flat(row: SweepRow) -> dict[str, Any]:
    """A row as it is written; all metrics are null if it failed."""
    return flattened(row.model_dump(exclude={"metrics"}), row.metrics, SWEEP_METRICS)


def table_schema() -> pa.Schema:
    """The columns of the written table."""
    kinds = {"ratio": pa.float64(), "ratio_achieved": pa.float64(), "threshold": pa.float64()}
    kinds |= dict.fromkeys(("stage", "point", "error"), pa.string()) | {"pareto": pa.bool_()}
    names = [name for name in SweepRow.model_fields if name != "metrics"]
    fields = [(name, kinds.get(name, pa.int64())) for name in names]
    return pa.schema([*fields, *columns(SWEEP_METRICS)])


def _panel(
    done: Sequence[SweepPoint],
    judged: dict[str, Judged],
    config: EvaluateConfig,
    *,
    stage: str,
    point: str,
) -> list[SweepRow]:
    """Rows of one stage and operating point: seeds, then all seeds of a ratio with its mark."""
    rows: list[SweepRow] = []
    pooled: list[SweepRow] = []
    done = [p for p in done if stage in p.stages]  # a method may lack a stage
    for ratio in sorted({p.ratio for p in done}):
        own = [p for p in done if p.ratio == ratio]
        results = {p.seed: p.stages[stage] for p in own}
        tables = {
            seed: _of_point(judged[result.evaluated.fingerprint][0], point)
            for seed, result in results.items()
        }
        facts = {"ratio": ratio, "stage": stage, "point": point}
        for seed, result in results.items():
            threshold = judged[result.evaluated.fingerprint][1][point]
            rows.append(
                SweepRow(
                    seed=seed, seeds=1, threshold=threshold,
                    metrics=metrics_of(tables[seed], config), **facts, **_size(result),
                )
            )  # fmt: skip
        whole = rows[-1].model_dump()
        if len(own) > 1:
            metrics = metrics_of(pa.concat_tables(tables.values()), config)
            whole |= {"metrics": metrics, "threshold": None}
        pooled.append(SweepRow.model_validate({**whole, "seed": None, "seeds": len(own)}))
    marks = pareto([tuple(row.metrics[name].value for name in COSTS) for row in pooled])
    return rows + [_marked(row, mark) for row, mark in zip(pooled, marks, strict=True)]


def _marked(row: SweepRow, mark: bool) -> SweepRow:
    return SweepRow.model_validate({**row.model_dump(), "pareto": mark})


def _of_point(table: pa.Table, point: str) -> pa.Table:
    return table.filter(pc.equal(table["point"], point))


def _size(result: StageResult) -> dict[str, Any]:
    unsafe, clean = (result.balanced.counts[side] for side in ("unsafe", "clean"))
    return {
        "ratio_achieved": clean / unsafe,
        "unsafe_items": unsafe,
        "clean_items": clean,
        "steps": result.model.counts["steps"],
    }
