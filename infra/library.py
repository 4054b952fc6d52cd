"""What a root keeps once for all its artifacts: things with an id, in shards that never change.

A shard is an artifact of its own, named by the ids in it: `index.parquet` lists them (first column)
with a few facts about each, and what is kept lies beside it. A crash loses at most the shard in the
making. An id may lie in two shards, which then hold the same. In memory are 40 bytes for an id; the
facts stay in the shards until they are asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra import cache
from infra.address import split_uri
from infra.digests import Lookup, digests
from infra.files import Files
from infra.fingerprint import content_hash
from infra.index import INDEX, read_index
from infra.integrity import DamagedError, condemn, condemned, present, read_manifest
from infra.store import Store
from schemas.artifact import Artifact, Manifest
from schemas.errors import StorageError

# Small files, and in a bucket each costs its time on the way.
READERS = 16


class Library:
    """The shards of one step and key in a root; ids are sha256 in hexadecimal."""

    def __init__(self, store: Store, step: str, version: int, **key: str) -> None:
        self.store = store
        self.step = step
        self.version = version
        self.key = key
        self.shards: list[Artifact] = []
        self._files = Files.at(store.root)
        # A thing's place is its row in all indexes, one after the other; a shard begins at one.
        self._starts = np.zeros(1, dtype=np.int64)
        self._places = Lookup("int64", absent=-1)
        self._load()

    def places(self, ids: Sequence[str]) -> np.ndarray:
        """Return where each id lies, [N]: numbers that grow from shard to shard, -1 for nowhere."""
        return self._places.find(digests(ids))

    def ids(self) -> np.ndarray:
        """Return the digests of all that is kept: [N] S32, sorted."""
        return self._places.items()[0] if self.shards else np.empty(0, "S32")

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that no shard holds, in their order."""
        return [ids[i] for i in np.flatnonzero(self.places(ids) < 0)]

    def spread(self, ids: Sequence[str]) -> dict[int, np.ndarray]:
        """Return for each shard that is needed the positions in `ids` of those that it holds.

        Raises:
            KeyError: an id that no shard holds.
        """
        numbers, _ = self.located(ids)
        order = np.argsort(numbers, kind="stable")
        needed, first = np.unique(numbers[order], return_index=True)
        return dict(zip(needed.tolist(), np.split(order, first[1:]), strict=False))

    def rows_within(self, ids: Sequence[str]) -> np.ndarray:
        """Return the row of each (known) id within its own shard."""
        return self.located(ids)[1]

    def located(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the shard of each id, and its row there, [N] each.

        Raises:
            KeyError: an id that no shard holds.
        """
        places = self.places(ids)
        if (lost := np.flatnonzero(places < 0)).size:
            raise KeyError(ids[lost[0]])
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        return numbers, places - self._starts[numbers]

    def facts(self, ids: Sequence[str]) -> pa.Table:
        """Return what the shards tell of each id, in their order; there is at least one.

        Raises:
            KeyError: an id that no shard holds.
            StorageError: a shard's index is damaged; the shard is taken out of use.
        """
        spread, within = self.spread(ids), self.rows_within(ids)
        with ThreadPoolExecutor(READERS) as pool:
            told = pool.map(self._told, spread, [within[own] for own in spread.values()])
            table = pa.concat_tables(told)
        return table.take(np.argsort(np.concatenate(list(spread.values())), kind="stable"))

    def folder(self, number: int) -> Path:
        """Return a local folder with a shard's files, checked by hash."""
        return self.store.local(self.shards[number])

    def forget(self, number: int) -> None:
        """Remove the copy of a shard in a bucket from this disk; it is fetched when it is read."""
        if not self._files.local:
            cache.forget(f"{self.step}/{self.shards[number].fingerprint}")

    def add(self, index: pa.Table, write: Callable[[Path], None]) -> None:
        """Keep a shard.

        Args:
            index: one row a thing, its id first; sorted by id.
            write: writes what is kept into an empty folder.
        """

        def build(folder: Path) -> Mapping[str, int]:
            pq.write_table(index, folder / INDEX)
            write(folder)
            return {"kept": index.num_rows}

        held = {"ids": content_hash(index.column(0).to_pylist())}
        shard = self.store.artifact(
            self.step, self.version, config={**self.key, **held}, build=build
        )
        self._append([(shard, digests(index.column(0)))])

    def _told(self, number: int, rows: np.ndarray) -> pa.Table:
        folder = f"{self.step}/{self.shards[number].fingerprint}"
        with condemned(self._files, folder):
            _, table = read_index(self._files, present(self._files, folder), facts=True)
        return table.take(rows)

    def _load(self) -> None:
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self._shard, self._files.folders(self.step))
            self._append([shard for shard in found if shard is not None])

    def _shard(self, name: str) -> tuple[Artifact, np.ndarray] | None:
        """A shard and the digests [N] in it, if it is one of this library's, and sound."""
        folder = f"{self.step}/{name}"
        try:
            manifest = read_manifest(self._files, folder)
            if manifest is None or not self._is_mine(manifest):
                return None
            ids, _ = read_index(self._files, manifest)
        except DamagedError as error:
            condemn(self._files, folder, why=error)
            return None
        uri = f"{self.store.root}/{folder}"
        return Artifact(uri=uri, step=self.step, fingerprint=name, reused=True), ids

    def _is_mine(self, manifest: Manifest) -> bool:
        given = {k: v for k, v in manifest.config.items() if k != "ids"}
        return manifest.version == self.version and given == self.key

    def _append(self, shards: Sequence[tuple[Artifact, np.ndarray]]) -> None:
        known = {shard.fingerprint for shard in self.shards}
        fresh = [(shard, ids) for shard, ids in shards if shard.fingerprint not in known]
        if not fresh:
            return
        ids = np.concatenate([ids for _, ids in fresh])
        start = self._starts[-1]
        self._starts = np.append(self._starts, start + np.cumsum([len(own) for _, own in fresh]))
        self.shards += [shard for shard, _ in fresh]
        self._places.add(ids, np.arange(start, start + len(ids)))


def root_of(artifact: Artifact) -> Store:
    """Open the root that an artifact lies in, and with it the libraries beside it."""
    return Store(split_uri(artifact.uri)[0])


def vanished(artifact: Artifact, *, what: str) -> StorageError:
    """Take an artifact out of use whose things are in no shard; the next run makes them again."""
    root, folder = split_uri(artifact.uri)
    files = Files.at(root)
    present(files, folder)
    why = DamagedError(f"{artifact.uri}: {what}")
    condemn(files, folder, why=why)
    return StorageError(f"{why}; run the same command again to make them anew")
