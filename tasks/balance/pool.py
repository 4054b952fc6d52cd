"""What an epoch is chosen from: the training items of a snapshot, by strata, capped by source."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.parts import parts
from schemas.config import BalanceConfig
from schemas.errors import ConfigError
from schemas.explain import did_you_mean
from schemas.samples import askable
from tasks.balance.order import hash_keys
from tasks.balance.shares import Stratum, capped

NARROW = ["sample_id", "image_ids", "split", "risk_type", "risk_level", "source", "supervises"]
# Between the parts of a stratum while it is one text: no name holds it, as `/` may be held.
BETWEEN = "\x1f"


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

    def by_stratum(self, of: np.ndarray) -> np.ndarray:
        """The items `of` (int64), stratum after stratum, in each by hash order."""
        return of[np.lexsort((self.keys[of], self.stratum[of]))]

    def capped(self, caps: Mapping[str, int]) -> "Pool":
        """At most so many items of a source, its strata in proportion, in each the first by hash.

        So a higher cap keeps all that a lower one keeps.
        """
        if not caps:
            return self
        sizes = self.sizes()
        kept = capped(dict(zip(self.strata, sizes.tolist(), strict=True)), caps)
        first = np.cumsum(sizes) - sizes
        ordered = self.by_stratum(np.arange(len(self.keys)))
        rank = np.empty(len(ordered), np.int64)
        rank[ordered] = np.arange(len(ordered)) - np.repeat(first, sizes)
        stays = rank < np.array([kept[s] for s in self.strata], np.int64)[self.stratum]
        return replace(
            self, keys=self.keys[stays], place=self.place[stays], stratum=self.stratum[stays]
        )


def read_pool(labelled: Path, config: BalanceConfig) -> Pool:
    """The askable items of the training split, or those with an answer; caps come later.

    Part by part, so that ten million rows cost their keys and not their texts.

    Raises:
        ConfigError: `source_caps` names a source that no row comes from, in whatever split.
    """
    pieces: list[tuple[np.ndarray, ...]] = []
    known: dict[str, int] = {}
    sources: set[str] = set()
    start = 0
    for path in parts(labelled / "rows"):
        table = pq.read_table(path, columns=NARROW, partitioning=None)
        sources.update(pc.unique(table["source"]).to_pylist())
        wanted = pc.and_(pc.equal(table["split"], "train"), askable(table))
        if config.with_answers_only:
            wanted = pc.and_(wanted, pc.equal(table["supervises"], "both"))
        own = table.filter(wanted)
        keys = hash_keys(own["sample_id"].to_pylist(), seed=config.seed)
        pieces.append((keys, start + np.flatnonzero(np.asarray(wanted)), _coded(own, known)))
        start += table.num_rows
    check_caps(config.source_caps, sources)
    keys, place, stratum = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return Pool(keys, place, stratum, _strata(known))


def _coded(table: pa.Table, known: dict[str, int]) -> np.ndarray:
    """(rows,) int32: each row's stratum as a number; `known` learns new ones."""
    level = table["risk_level"].cast(pa.string())
    texts = pc.binary_join_element_wise(table["risk_type"], level, table["source"], BETWEEN)
    coded = pa.concat_arrays(texts.chunks or [pa.array([], pa.string())]).dictionary_encode()
    numbers = [known.setdefault(text, len(known)) for text in coded.dictionary.to_pylist()]
    return np.array(numbers, np.int32)[np.asarray(coded.indices)]


def _strata(known: Iterable[str]) -> tuple[Stratum, ...]:
    split = (text.split(BETWEEN) for text in known)
    return tuple(Stratum(kind, int(level), source) for kind, level, source in split)


def check_caps(caps: Mapping[str, int], sources: Collection[str]) -> None:
    """ConfigError, naming the sources there are, for a cap of another one."""
    for name in sorted(caps.keys() - set(sources)):
        raise ConfigError(
            f"source_caps names {name!r}, which is none of the sources; "
            f"{did_you_mean(name, sources)}sources: {', '.join(sorted(sources))}"
        )
