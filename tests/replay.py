"""A training's logged rows, replayed against the order plan that it was given."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from infra.parts import read_parts
from schemas.config import PartConfig
from schemas.samples import ROWS
from schemas.taxonomy import CLEAN


def replay(trained: Path, balanced: Path, parts: Mapping[str, PartConfig]) -> int:
    """Hold `order.parquet` of a stage against rows and plan; returns how many items it trained on.

    Every step has the plan's next rows, no row comes twice or is left out within a pass of all
    rows, and every global batch holds the ratio of all rows to within one item.
    """
    order = pq.read_table(trained / "order.parquet").to_pandas()
    rows = read_parts(balanced / "rows", ROWS, columns=["sample_id", "risk_type"])
    clean = np.array(rows.sort_by("sample_id")["risk_type"].to_pylist()) == CLEAN
    plan = pq.read_table(balanced / "plan.parquet")["row"].to_numpy()
    assert list(dict.fromkeys(order["part"])) == list(parts)
    for name, part in parts.items():
        own = order[order["part"] == name]
        took = own["row"].to_numpy()
        size, count = part.global_batch, part.global_batch * part.steps
        assert own["step"].tolist() == np.repeat(np.arange(part.steps) + 1, size).tolist()
        assert took.tolist() == np.resize(plan, count).tolist()
        for first in range(0, count, len(clean)):
            once = took[first : first + len(clean)]
            assert len(set(once.tolist())) == len(once)
        share = clean.mean() * size
        assert np.abs(clean[took].reshape(-1, size).sum(1) - share).max() <= 1.0
    return len(order)
