"""What a method does with a source or a risk type that it has not learnt from (METHOD.md 7.6)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from schemas.ablation import HELD_METRICS, HeldOutRow, MethodPoint
from schemas.config import NOTHING, EvaluateConfig, HeldOut
from tasks.ablation.table import pooled
from tasks.sweep.columns import columns, flattened
from tasks.sweep.metrics import clustered_metrics

WITH, WITHOUT = "with it", "without it"


def held_out_rows(
    points: Sequence[MethodPoint], judged: Mapping[str, pa.Table], config: EvaluateConfig
) -> list[HeldOutRow]:
    """By what is held out, then by method: trained with it, trained without it, the same seeds.

    A method or seed that failed on either side is left out.

    Args:
        points: all methods and seeds, with and without what is held out.
        judged: fingerprint of an evaluation -> its rows.
        config: draws and seed of the intervals.
    """
    found = {
        (p.held_out, p.method, p.seed): judged[p.evaluated.fingerprint]
        for p in points
        if p.evaluated is not None
    }
    rows = []
    for held in dict.fromkeys(p.held_out for p in points if p.held_out != NOTHING):
        for method in dict.fromkeys(p.method for p in points):
            seeds = [p.seed for p in points if (p.held_out, p.method) == (held, method)]
            both = [s for s in seeds if {(held, method, s), (NOTHING, method, s)} <= found.keys()]
            for trained, own in ((WITH, NOTHING), (WITHOUT, held)) if both else ():
                items = pooled([items_of(found[own, method, seed], held) for seed in both])
                metrics = clustered_metrics(items, HELD_METRICS, config)
                rows.append(
                    HeldOutRow(
                        method=method, held_out=held.told, trained=trained, seeds=len(both),
                        metrics=metrics,
                    )
                )  # fmt: skip
    return rows


def items_of(judged: pa.Table, held_out: HeldOut) -> pa.Table:
    """The judged rows of what is held out."""
    pairs = zip(judged["risk_type"].to_pylist(), judged["source"].to_pylist(), strict=True)
    return judged.filter(pa.array([held_out.holds(*pair) for pair in pairs], pa.bool_()))


def flat_held_out(row: HeldOutRow) -> dict[str, Any]:
    """A row as it is written."""
    return flattened(row.model_dump(exclude={"metrics"}), row.metrics, HELD_METRICS)


def held_out_schema() -> pa.Schema:
    """The columns of the written table."""
    texts = [(name, pa.string()) for name in ("method", "held_out", "trained")]
    return pa.schema([*texts, ("seeds", pa.int64()), *columns(HELD_METRICS)])
