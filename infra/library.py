"""What a root keeps once for all its artifacts: things with an id, in shards that never change.

A shard is an artifact of its own, named by the ids in it: `index.parquet` lists them (first column)
with a few facts about each, and what is kept lies beside it. A crash loses at most the shard in the
making. An id may lie in two shards, which then hold the same.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.address import split_uri
from infra.files import Files
from infra.fingerprint import content_hash
from infra.integrity import DamagedError, attempt, condemn, present, read_manifest
from infra.store import Store
from schemas.artifact import Artifact, Manifest
from schemas.errors import StorageError

INDEX = "index.parquet"


class Library:
    """The shards of one step and key in a root; ids are sha256 in hexadecimal (64 bytes each)."""

    def __init__(self, store: Store, step: str, version: int, **key: str) -> None:
        self.store = store
        self.step = step
        self.version = version
        self.key = key
        self.shards: list[Artifact] = []
        self.index = pa.table({})
        self._sorted = np.array([], dtype="S64")
        self._place = np.array([], dtype=np.int64)
        self._shard = np.array([], dtype=np.int32)
        self._load()

    def places(self, ids: Sequence[str]) -> np.ndarray:
        """Return the row of each id in `index`, -1 for an unknown one."""
        if not len(self._sorted):
            return np.full(len(ids), -1)
        keys = np.array(ids, dtype="S64")
        near = np.searchsorted(self._sorted, keys).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[near] == keys, self._place[near], -1)

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that no shard holds, in their order."""
        return [name for name, place in zip(ids, self.places(ids), strict=True) if place < 0]

    def spread(self, ids: Sequence[str]) -> dict[int, np.ndarray]:
        """Return for each shard that is needed the positions in `ids` of those that it holds.

        Raises:
            KeyError: an id that no shard holds.
        """
        places = self.places(ids)
        if (lost := np.flatnonzero(places < 0)).size:
            raise KeyError(ids[lost[0]])
        numbers = self._shard[places]
        return {int(n): np.flatnonzero(numbers == n) for n in np.unique(numbers)}

    def rows_within(self, ids: Sequence[str]) -> np.ndarray:
        """Return the row of each (known) id within its own shard."""
        places = self.places(ids)
        starts = np.searchsorted(self._shard, np.arange(len(self.shards)))
        return places - starts[self._shard[places]]

    def folder(self, number: int) -> Path:
        """Return a local folder with a shard's files, checked by hash."""
        return self.store.local(self.shards[number])

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
        if shard.fingerprint not in [known.fingerprint for known in self.shards]:
            self._append(shard, index)
            self._sort()

    def _load(self) -> None:
        files = Files.at(self.store.root)
        for name in files.folders(self.step):
            folder = f"{self.step}/{name}"
            try:
                manifest = read_manifest(files, folder)
                if manifest is None or not self._is_mine(manifest):
                    continue
                index = _read_index(files, manifest)
            except DamagedError as error:
                condemn(files, folder, why=error)
                continue
            uri = f"{self.store.root}/{folder}"
            shard = Artifact(uri=uri, step=self.step, fingerprint=name, reused=True)
            self._append(shard, index)
        self._sort()

    def _is_mine(self, manifest: Manifest) -> bool:
        given = {k: v for k, v in manifest.config.items() if k != "ids"}
        return manifest.version == self.version and given == self.key

    def _append(self, shard: Artifact, index: pa.Table) -> None:
        number = np.full(index.num_rows, len(self.shards), dtype=np.int32)
        self.shards.append(shard)
        self._shard = np.concatenate([self._shard, number])
        self.index = pa.concat_tables([self.index, index]) if self.index.num_columns else index

    def _sort(self) -> None:
        if self.index.num_columns:
            ids = np.array(self.index.column(0).to_pylist(), dtype="S64")
            self._place = np.argsort(ids, kind="stable")
            self._sorted = ids[self._place]


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


def _read_index(files: Files, manifest: Manifest) -> pa.Table:
    where = f"{attempt(manifest)}/{INDEX}"
    data = files.read(where)
    entry = next((entry for entry in manifest.files if entry.path == INDEX), None)
    if data is None or entry is None or len(data) != entry.bytes:
        raise DamagedError(f"{files.address}/{where} is missing or cut short")
    try:
        return pq.read_table(io.BytesIO(data))
    except pa.ArrowException as error:
        raise DamagedError(f"{files.address}/{where} is not Parquet: {error}") from None
