"""The step itself: read narrow columns, choose by hash, write the rows and the plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.parts import parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import BalanceConfig
from schemas.errors import ConfigError, DataError
from schemas.samples import ROWS
from tasks.balance.order import hash_keys, plan_order, stirred
from tasks.balance.shares import apportion, sides

VERSION = 1
NARROW = ["sample_id", "split", "risk_type", "risk_level", "source", "supervises"]
PLAN = pa.schema([("row", pa.int32())])


@dataclass(frozen=True)
class Pool:
    """The training items to choose from.

    keys (n,) uint64; place (n,) int64 row among all rows; stratum (n,) int32 index into names
    (`type/level/source`); unsafe (n,) bool.
    """

    keys: np.ndarray
    place: np.ndarray
    stratum: np.ndarray
    unsafe: np.ndarray
    names: list[str]


def balance(config: BalanceConfig, labelled: Artifact, *, store: Store) -> Artifact:
    """Labelled -> balanced (`rows/part-00000.parquet`, `plan.parquet`), training split only.

    Counts: in (training rows to choose from), unsafe and clean (items of an epoch), rows
    (distinct), positions (of the plan).

    Raises:
        ConfigError: `size` and `total` do not go together.
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
    pool = _pool(labelled, config)
    want_unsafe, want_clean = _sizes(pool, config)
    sides = [
        _choose(pool, want_unsafe, config=config, unsafe=True),
        _choose(pool, want_clean, config=config, unsafe=False),
    ]
    item, copy = (np.concatenate(columns) for columns in zip(*sides, strict=True))
    chosen, rows = np.unique(pool.place[item], return_inverse=True)
    plan = plan_order(
        rows.astype(np.int32),
        np.where(copy > 0, stirred(pool.keys[item], copy), pool.keys[item]),
        unsafe=pool.unsafe[item],
        epochs=config.epochs,
    )
    _write_rows(labelled, chosen, folder)
    pq.write_table(pa.table([plan], schema=PLAN), folder / "plan.parquet")
    counts = {"in": len(pool.keys), "unsafe": want_unsafe, "clean": want_clean}
    return {**counts, "rows": len(chosen), "positions": len(plan)}


def _pool(labelled: Path, config: BalanceConfig) -> Pool:
    """Part by part, so that ten million rows cost their keys and not their texts."""
    pieces: list[tuple[np.ndarray, ...]] = []
    known: dict[str, int] = {}
    start = 0
    for path in parts(labelled / "rows"):
        table = pq.read_table(path, columns=NARROW, partitioning=None)
        wanted = pc.equal(table["split"], "train")
        if config.with_answers_only:
            wanted = pc.and_(wanted, pc.equal(table["supervises"], "both"))
        own = table.filter(wanted)
        strata = pc.binary_join_element_wise(
            own["risk_type"], own["risk_level"].cast(pa.string()), own["source"], "/"
        )
        coded = pa.concat_arrays(strata.chunks or [pa.array([], pa.string())]).dictionary_encode()
        codes = [known.setdefault(name, len(known)) for name in coded.dictionary.to_pylist()]
        pieces.append(
            (
                hash_keys(own["sample_id"].to_pylist(), seed=config.seed),
                start + np.flatnonzero(np.asarray(wanted)),
                np.array(codes, np.int32)[np.asarray(coded.indices)],
                np.asarray(own["risk_level"]) > 0,
            )
        )
        start += table.num_rows
    keys, place, stratum, unsafe = (np.concatenate(c) for c in zip(*pieces, strict=True))
    return Pool(keys, place, stratum, unsafe, list(known))


def _sizes(pool: Pool, config: BalanceConfig) -> tuple[int, int]:
    """Unsafe and clean items of an epoch; DataError for a side without a single item."""
    unsafe, clean = int(pool.unsafe.sum()), int((~pool.unsafe).sum())
    ratio = config.clean_per_unsafe
    asked = " with an answer" if config.with_answers_only else ""
    if not unsafe:
        raise DataError(
            f"no unsafe row{asked} in the training split ({clean} clean ones): there is nothing "
            "to learn risks from; add a source with labelled risks, or check its label mapping"
        )
    if ratio > 0 and not clean:
        raise DataError(
            f"no clean row{asked} in the training split ({unsafe} unsafe ones), and "
            f"clean_per_unsafe = {ratio:g}; add a clean source, or set clean_per_unsafe = 0"
        )
    if config.total is None:
        return unsafe, floor(ratio * unsafe + 0.5)
    want_unsafe, want_clean = sides(config.total, ratio)
    if not want_unsafe:
        raise DataError(
            f"total = {config.total} at clean_per_unsafe = {ratio:g} has no unsafe item"
        )
    return want_unsafe, want_clean


def _choose(
    pool: Pool, want: int, *, config: BalanceConfig, unsafe: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Items of one side, by strata and hash order: (index into the pool, number of the copy)."""
    side = np.flatnonzero(pool.unsafe == unsafe)
    if not want:
        return side[:0], side[:0]
    numbers, counts = np.unique(pool.stratum[side], return_counts=True)
    sizes = {pool.names[n]: int(c) for n, c in zip(numbers, counts, strict=True)}
    if want > len(side) * config.max_repeat:
        raise _too_few(want, sizes, config=config, unsafe=unsafe)
    ordered = side[np.lexsort((side, pool.keys[side], pool.stratum[side]))]
    groups = np.split(ordered, np.cumsum(counts)[:-1])
    shares = apportion(sizes, want)
    items, copies = [], []
    for number, group in zip(numbers, groups, strict=True):
        turn = np.arange(shares[pool.names[number]])
        items.append(group[turn % len(group)])
        copies.append(turn // len(group))
    return np.concatenate(items), np.concatenate(copies)


def _too_few(
    want: int, sizes: Mapping[str, int], *, config: BalanceConfig, unsafe: bool
) -> DataError:
    there = sum(sizes.values())
    word, remedy = ("unsafe", "total") if unsafe else ("clean", "clean_per_unsafe or total")
    strata = ", ".join(f"{name}: {n}" for name, n in sorted(sizes.items(), key=lambda s: s[1])[:5])
    return DataError(
        f"{want} {word} items asked for (clean_per_unsafe = {config.clean_per_unsafe:g}), and the "
        f"training split has {there} (smallest strata, type/level/source: {strata}), each used at "
        f"most {config.max_repeat} times; lower {remedy}, or raise max_repeat to "
        f"{-(-want // there)}"
    )


def _write_rows(labelled: Path, chosen: np.ndarray, folder: Path) -> None:
    """The chosen rows in the order they lie in, which is that of sample_id."""
    (folder / "rows").mkdir()
    start = 0
    with pq.ParquetWriter(folder / "rows" / "part-00000.parquet", ROWS) as writer:
        for path in parts(labelled / "rows"):
            size = pq.read_metadata(path).num_rows
            here = chosen[(chosen >= start) & (chosen < start + size)] - start
            if len(here):
                table = pq.read_table(path, partitioning=None).take(pa.array(here))
                writer.write_table(table.cast(ROWS))
            start += size
