"""Rows with metrics as columns: a metric is its value, `_n`, `_low` and `_high`."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from schemas.report import Metric

# End of a column's name -> the metric's field.
ENDS = {"": "value", "_n": "n", "_low": "low", "_high": "high"}


def flattened(
    facts: Mapping[str, Any], metrics: Mapping[str, Metric], names: Iterable[str]
) -> dict[str, Any]:
    """A row as it is written: facts, then metrics; null where there is nothing to count."""
    line = dict(facts)
    for name in names:
        metric = metrics.get(name)
        for end, field in ENDS.items():
            line[f"{name}{end}"] = getattr(metric, field) if metric and metric.n else None
    return line


def columns(names: Iterable[str]) -> list[tuple[str, pa.DataType]]:
    """The columns of metrics."""
    kinds = {"n": pa.int64()}
    return [
        (f"{name}{end}", kinds.get(field, pa.float64()))
        for name in names
        for end, field in ENDS.items()
    ]
