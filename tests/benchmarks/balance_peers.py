"""Balance's selection in polars and in pandas, as their users would write it.

The same strata, shares, pattern and files; polars orders by its own hash, pandas by our sha256.
The imports stand where they are used, so that neither counts for the other.
"""

import hashlib
from pathlib import Path

import numpy as np

from schemas.config import BalanceConfig
from tasks.balance.shares import apportion, sides

STRATUM = ["risk_type", "risk_level", "source"]
NARROW = ["sample_id", "image_ids", "split", *STRATUM]


def by_polars(out: Path, config: BalanceConfig, labelled: Path) -> None:
    """Lazy scans over all parts, in polars' streaming engine; its hash, seeded."""
    import polars as pl

    rows = pl.scan_parquet(labelled / "rows" / "*.parquet", row_index_name="place")
    pool = (
        rows.filter(pl.col("split") == "train", pl.col("image_ids").list.len() <= 1)
        .select("place", *STRATUM, key=pl.col("sample_id").hash(config.seed))
        .collect(engine="streaming")
    )
    sizes = pool.group_by(STRATUM).len()
    shares = _shares(sizes.rows(), config)
    sizes = sizes.with_columns(share=pl.Series(shares))
    chosen = (
        pool.join(sizes, on=STRATUM)
        .filter(pl.col("key").rank("ordinal").over(STRATUM) <= pl.col("share"))
        .sort("place")
    )
    (out / "rows").mkdir()
    rows.join(chosen.lazy().select("place"), on="place", how="semi", maintain_order="left").drop(
        "place"
    ).sink_parquet(out / "rows" / "part-00000.parquet", compression="snappy")
    unsafe = (chosen["risk_level"] > 0).to_numpy()
    pattern, places = _pattern(unsafe), np.arange(len(chosen), dtype=np.int32)
    plan = np.empty((config.epochs, len(chosen)), np.int32)
    for epoch, line in enumerate(plan):
        turn = chosen["key"].hash(epoch).arg_sort().to_numpy()
        line[pattern], line[~pattern] = places[turn][unsafe[turn]], places[turn][~unsafe[turn]]
    pl.DataFrame({"row": plan.reshape(-1)}).write_parquet(
        out / "plan.parquet", compression="snappy"
    )


def by_pandas(out: Path, config: BalanceConfig, labelled: Path) -> None:
    """One part after another, in Arrow's types; hashed in Python: pandas has no sha256."""
    import pandas as pd

    parts = sorted((labelled / "rows").glob("*.parquet"))
    frames, start = [], 0
    for path in parts:
        part = pd.read_parquet(path, columns=NARROW, dtype_backend="pyarrow")
        own = part[(part["split"] == "train") & (part["image_ids"].list.len() <= 1)]
        keys = own["sample_id"].map(lambda name: _sha(name, config.seed)).astype("uint64")
        own = own.assign(key=keys, place=own.index + start)
        frames.append(own[["key", "place", *STRATUM]])
        start += len(part)
    pool = pd.concat(frames, ignore_index=True).sort_values("key")
    groups = pool.groupby(STRATUM, sort=False)
    sizes = groups.size().rename("size").reset_index()
    shares = _shares(list(sizes.itertuples(index=False, name=None)), config)
    wanted = pool[STRATUM].merge(sizes.assign(share=shares), on=STRATUM, how="left")["share"]
    chosen = pool[groups.cumcount().to_numpy() < wanted.to_numpy()].sort_values("place")
    _write_pandas(parts, chosen["place"].to_numpy(), out)
    unsafe = (chosen["risk_level"] > 0).to_numpy(bool)
    pattern, lines = _pattern(unsafe), []
    for epoch in range(config.epochs):
        turn = pd.util.hash_array(chosen["key"].to_numpy() + np.uint64(epoch)).argsort()
        line = np.empty(len(chosen), np.int32)
        line[pattern], line[~pattern] = turn[unsafe[turn]], turn[~unsafe[turn]]
        lines.append(line)
    pd.DataFrame({"row": np.concatenate(lines)}).to_parquet(out / "plan.parquet")


def _write_pandas(parts: list[Path], places: np.ndarray, out: Path) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    frames, start = [], 0
    for path in parts:
        size = pq.read_metadata(path).num_rows
        here = places[(places >= start) & (places < start + size)] - start
        frames.append(pd.read_parquet(path, dtype_backend="pyarrow").iloc[here])
        start += size
    (out / "rows").mkdir()
    pd.concat(frames).to_parquet(out / "rows" / "part-00000.parquet", index=False)


def _sha(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")


def _shares(sizes: list[tuple[str, int, str, int]], config: BalanceConfig) -> list[int]:
    """How many rows of each (type, level, source, rows there are): arithmetic on few numbers."""
    unsafe, clean = sides(config.total, config.clean_per_unsafe)
    given: dict[str, int] = {}
    for risky, want in ((True, unsafe), (False, clean)):
        own = {
            f"{kind}/{level}/{source}": n
            for kind, level, source, n in sizes
            if (level > 0) == risky
        }
        given |= apportion(own, want)
    return [given[f"{kind}/{level}/{source}"] for kind, level, source, _ in sizes]


def _pattern(unsafe: np.ndarray) -> np.ndarray:
    """Which positions of an epoch are unsafe, spread evenly."""
    place = np.arange(len(unsafe) + 1, dtype=np.int64) * int(unsafe.sum()) // len(unsafe)
    return place[1:] > place[:-1]
