"""The step itself: read narrow columns, choose by hash, write the rows, the plan and its ratios."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.ahead import ahead
from infra.parts import parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import BalanceConfig
from schemas.errors import ConfigError
from schemas.ratios import Ratios
from schemas.samples import ROWS
from tasks.balance.draw import draw
from tasks.balance.pool import FEW, read_pool
from tasks.balance.ratios import count_ratios

VERSION = 2
PLAN = pa.schema([("row", pa.int32())])
RATIOS = "ratios.json"


def balance(config: BalanceConfig, labelled: Artifact, *, store: Store) -> Artifact:
    """Labelled -> balanced, training split only.

    `rows/part-00000.parquet`, `plan.parquet`, and `ratios.json` (schemas/ratios.py).
    Counts: in (training rows, before caps), unsafe and clean (items of an epoch), rows (distinct),
    positions (of the plan).

    Raises:
        ConfigError: `size` and `total` do not go together, or a capped source is unknown.
        DataError: a side is empty, or has fewer items than asked for.
    """
    if (config.size == "fixed_total") != (config.total is not None):
        raise ConfigError(
            f"size = {config.size} with total = {config.total}: "
            "give total with fixed_total, and only then"
        )

    def build(folder: Path) -> dict[str, int]:
        return build_balanced(folder, config, store.local(labelled))

    return store.artifact(
        "balance", VERSION, config=config, parents={"labelled": labelled}, build=build
    )


def build_balanced(folder: Path, config: BalanceConfig, labelled: Path) -> dict[str, int]:
    """Choose from a labelled folder into an empty folder."""
    whole = read_pool(labelled, config)
    pool = whole.without(config.held_out).capped(config.source_caps)
    order = draw(pool, config)
    _write_rows(labelled, pool.place[order.chosen], folder)
    pq.write_table(pa.table([order.plan], schema=PLAN), folder / "plan.parquet")
    told = count_ratios(whole, pool, order, config).model_dump_json(indent=1)
    (folder / RATIOS).write_text(f"{told}\n", encoding="utf-8")
    counts = {"in": len(whole.keys), "unsafe": order.unsafe, "clean": order.clean}
    return {**counts, "rows": len(order.chosen), "positions": len(order.plan)}


def read_ratios(balanced: Path) -> Ratios:
    """What the order in a balanced folder was asked for, and what it holds."""
    return Ratios.model_validate_json((balanced / RATIOS).read_bytes())


def _write_rows(labelled: Path, chosen: np.ndarray, folder: Path) -> None:
    """The chosen rows in the order they lie in, which is that of sample_id."""
    (folder / "rows").mkdir()
    paths = parts(labelled / "rows")
    ends = np.cumsum([pq.read_metadata(path).num_rows for path in paths])
    groups = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    wanted = [
        (path, group - start)
        for path, group, start in zip(paths, groups, [0, *ends[:-1]], strict=True)
        if len(group)
    ]
    with pq.ParquetWriter(folder / "rows" / "part-00000.parquet", ROWS) as writer:
        for table in ahead(wanted, _taken):
            writer.write_table(table)


def _taken(wanted: tuple[Path, np.ndarray]) -> pa.Table:
    path, rows = wanted
    with pq.ParquetFile(path, read_dictionary=FEW) as file:
        return file.read().take(pa.array(rows)).cast(ROWS)
