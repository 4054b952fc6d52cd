"""Which things of a root's libraries the artifacts name, and which shards hold them.

Unlike `Library` this only reads: what is damaged is told, not taken out of use.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.files import Files
from infra.integrity import DamagedError, attempt
from infra.library import INDEX
from schemas.artifact import Manifest

Key = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Reference:
    """How the artifacts of a step name things by id.

    Attributes:
        step: the step.
        since: its first version that keeps the things in a library.
        index: a Parquet file, or a folder of them, with the ids in the first column.
        shards: the step of the library's shards.
        shard_version: their version.
        stamps: part of the library's key -> its name in the index's metadata.
    """

    step: str
    since: int
    index: str
    shards: str
    shard_version: int
    stamps: Mapping[str, bytes] = field(default_factory=dict)


def named(files: Files, manifest: Manifest, by: Reference) -> tuple[Key, np.ndarray] | None:
    """The library's key and the sorted ids [N] that an artifact names; None if it names no library.

    Raises:
        DamagedError: its index cannot be read.
    """
    paths = [entry.path for entry in manifest.files if _is_index(entry.path, by.index)]
    tables = [_table(files, manifest, path) for path in sorted(paths)]
    if not tables:
        return None
    stamped = tables[0].schema.metadata or {}
    if not all(name in stamped for name in by.stamps.values()):
        return None
    key = frozenset((part, stamped[name].decode()) for part, name in by.stamps.items())
    return key, np.unique(np.concatenate([_ids(table) for table in tables]))


def held(files: Files, manifest: Manifest) -> tuple[Key, np.ndarray]:
    """The library's key and the sorted ids [N] of a shard; DamagedError if it cannot be read."""
    table = _table(files, manifest, INDEX)
    config = manifest.config.items()
    return frozenset((k, str(v)) for k, v in config if k != "ids"), np.unique(_ids(table))


def lost(ids: np.ndarray, *, among: Iterable[np.ndarray]) -> np.ndarray:
    """The ids [N] that none of the arrays holds."""
    here = np.zeros(len(ids), dtype=bool)
    for array in among:
        here |= np.isin(ids, array, assume_unique=True)
    return ids[~here]


def _is_index(path: str, index: str) -> bool:
    return path == index or path.startswith(f"{index}/")


def _table(files: Files, manifest: Manifest, path: str) -> pa.Table:
    """The first column of a Parquet file, with the metadata of all."""
    where = f"{attempt(manifest)}/{path}"
    data = files.read(where)
    if data is None:
        raise DamagedError(f"{files.address}/{where} is missing")
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        return file.read(columns=file.schema_arrow.names[:1])
    except pa.ArrowException as error:
        raise DamagedError(f"{files.address}/{where} is not Parquet: {error}") from None


def _ids(table: pa.Table) -> np.ndarray:
    return np.array(table.column(0).to_pylist(), dtype="S64")
