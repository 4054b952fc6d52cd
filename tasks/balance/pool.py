"""What an epoch is chosen from: the training items of a snapshot, by strata, capped by source."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.ahead import ahead
from infra.parts import parts
from schemas.config import NOTHING, BalanceConfig, HeldOut
from schemas.errors import ConfigError
from schemas.explain import did_you_mean
from schemas.samples import askable
from schemas.taxonomy import CLEAN
from tasks.balance.order import first_by_key, hash_keys
from tasks.balance.shares import Stratum, capped

STRATUM = ["risk_type", "risk_level", "source"]
# Texts of few values: read as numbers and a list of words, as they lie in the file.
FEW = ["risk_type", "source", "split", "supervises", "language", "licence"]


@dataclass(frozen=True)
class Pool:
    """The training items to choose from.

    keys (n,) uint64; place (n,) int64 row among all rows; stratum (n,) int32 index into `strata`.
    """

    keys: np.ndarray
    place: np.ndarray
    stratum: np.ndarray
    strata: tuple[Stratum, ...]

    @cached_property
    def unsafe(self) -> np.ndarray:
        """(n,) bool."""
        return np.array([stratum.level > 0 for stratum in self.strata], bool)[self.stratum]

    def sizes(self) -> np.ndarray:
        """(strata,) int64: the items of each stratum."""
        return np.bincount(self.stratum, minlength=len(self.strata))

    def by_stratum(self, of: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The items `of` (int64) of each stratum that has any, with its number, by rising place."""
        # Numbers of at most 16 bits are sorted by counting.
        narrow = self.stratum[of].astype(np.min_scalar_type(len(self.strata)))
        ordered = of[np.argsort(narrow, kind="stable")]
        sizes = np.bincount(narrow, minlength=len(self.strata))
        groups = np.split(ordered, np.cumsum(sizes)[:-1])
        return ((number, group) for number, group in enumerate(groups) if len(group))

    def without(self, held_out: HeldOut) -> "Pool":
        """The items that training may see; ConfigError for a name that holds out none of them."""
        if held_out == NOTHING:
            return self
        there = [stratum for stratum, n in zip(self.strata, self.sizes(), strict=True) if n]
        for field in ("types", "sources"):
            for name in getattr(held_out, field):
                own = HeldOut.model_validate({field: (name,)})
                if not any(own.holds(stratum.risk_type, stratum.source) for stratum in there):
                    known = sorted({_told(stratum, field) for stratum in there} - {CLEAN})
                    raise ConfigError(
                        f"held_out.{field} names {name!r}, and no row of the training split is of "
                        f"it; {did_you_mean(name, known)}{field}: {', '.join(known)}"
                    )
        held = [held_out.holds(stratum.risk_type, stratum.source) for stratum in self.strata]
        return self._only(~np.array(held, bool)[self.stratum])

    def capped(self, caps: Mapping[str, int]) -> "Pool":
        """At most so many items of a source, its strata in proportion, in each the first by hash.

        So a higher cap keeps all that a lower one keeps.
        """
        if not caps:
            return self
        kept = capped(dict(zip(self.strata, self.sizes().tolist(), strict=True)), caps)
        stays = np.zeros(len(self.keys), bool)
        for number, group in self.by_stratum(np.arange(len(self.keys))):
            stays[group[first_by_key(self.keys[group], kept[self.strata[number]])]] = True
        return self._only(stays)

    def _only(self, stays: np.ndarray) -> "Pool":
        return replace(
            self, keys=self.keys[stays], place=self.place[stays], stratum=self.stratum[stays]
        )


def read_pool(labelled: Path, config: BalanceConfig) -> Pool:
    """The askable items of the training split, or those with an answer; caps come later.

    Part by part, so that ten million rows cost their keys and not their texts.

    Raises:
        ConfigError: `source_caps` names a source that no row comes from, in whatever split.
    """
    paths = parts(labelled / "rows")
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    keys, place, stratum = (np.empty(rows, kind) for kind in (np.uint64, np.int64, np.int32))
    known: dict[Stratum, int] = {}
    sources: set[str] = set()
    start = count = 0
    for part in ahead(paths, partial(_read, answered=config.with_answers_only)):
        sources.update(part.sources)
        here = slice(count, count + len(part.place))
        keys[here] = hash_keys(part.sample_ids.to_pylist(), seed=config.seed)
        place[here] = start + part.place
        numbers = [known.setdefault(name, len(known)) for name in part.strata]
        stratum[here] = np.array(numbers, np.int32)[part.stratum]
        start, count = start + part.rows, here.stop
    check_caps(config.source_caps, sources)
    return Pool(keys[:count], place[:count], stratum[:count], tuple(known))


class _Part(NamedTuple):
    """The items of one part, as in Pool; `rows` are all of its rows, `sources` theirs."""

    rows: int
    sources: list[str]
    sample_ids: pa.ChunkedArray
    place: np.ndarray
    stratum: np.ndarray
    strata: list[Stratum]


def _read(path: Path, *, answered: bool) -> _Part:
    """The items of a part, those with an answer alone if `answered`."""
    columns = ["sample_id", "image_ids", "split", *STRATUM]
    with pq.ParquetFile(path, read_dictionary=FEW) as file:
        table = file.read(columns=[*columns, "supervises"] if answered else columns)
    wanted = pc.and_(pc.equal(table["split"], "train"), askable(table))
    if answered:
        wanted = pc.and_(wanted, pc.equal(table["supervises"], "both"))
    own = table.select(["sample_id", *STRATUM]).filter(wanted)
    place = np.flatnonzero(np.asarray(wanted))
    return _Part(
        table.num_rows,
        pc.unique(table["source"]).to_pylist(),
        own["sample_id"],
        place,
        *_coded(own),
    )


def _coded(table: pa.Table) -> tuple[np.ndarray, list[Stratum]]:
    """(rows,) each row's stratum as a number, and the strata."""
    level = table["risk_level"].to_numpy().astype(np.int64)
    (kind, kinds), (source, sources) = _words(table["risk_type"]), _words(table["source"])
    mixed = (kind * len(sources) + source) * 256 + level
    found, number = np.unique(mixed, return_inverse=True)
    strata = []
    for one in found.tolist():
        pair, own = divmod(one, 256)
        strata.append(Stratum(kinds[pair // len(sources)], own, sources[pair % len(sources)]))
    return number, strata


def _words(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """(rows,) int64: which of the different texts of a column each row has; and the texts."""
    coded = column.combine_chunks()
    return np.asarray(coded.indices).astype(np.int64), coded.dictionary.to_pylist()


def _told(stratum: Stratum, field: str) -> str:
    return stratum.risk_type if field == "types" else stratum.source


def check_caps(caps: Mapping[str, int], sources: Collection[str]) -> None:
    """ConfigError, naming the sources there are, for a cap of another one."""
    for name in sorted(caps.keys() - set(sources)):
        raise ConfigError(
            f"source_caps names {name!r}, which is none of the sources; "
            f"{did_you_mean(name, sources)}sources: {', '.join(sorted(sources))}"
        )
