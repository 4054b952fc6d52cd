"""Which things of a root's libraries the artifacts name, and which shards hold them.

Unlike `Library` this only reads: what is damaged is told, not taken out of use.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from infra.digests import within
from infra.files import Files
from infra.index import read_index
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
    """The library's key and the sorted digests [N] S32 that an artifact names; None without one.

    Raises:
        DamagedError: its index cannot be read.
    """
    paths = [entry.path for entry in manifest.files if _is_index(entry.path, by.index)]
    indexes = [read_index(files, manifest, path) for path in sorted(paths)]
    if not indexes:
        return None
    stamped = indexes[0][1].schema.metadata or {}
    if not all(name in stamped for name in by.stamps.values()):
        return None
    key = frozenset((part, stamped[name].decode()) for part, name in by.stamps.items())
    return key, np.unique(np.concatenate([ids for ids, _ in indexes]))


def held(files: Files, manifest: Manifest) -> tuple[Key, np.ndarray]:
    """The library's key and the sorted digests [N] of a shard; DamagedError if unreadable."""
    ids, _ = read_index(files, manifest)
    config = manifest.config.items()
    return frozenset((k, str(v)) for k, v in config if k != "ids"), np.unique(ids)


def lost(ids: np.ndarray, *, among: Iterable[np.ndarray]) -> np.ndarray:
    """The digests [N], sorted, that none of the sorted arrays holds."""
    here = np.zeros(len(ids), dtype=bool)
    for array in among:
        here[np.searchsorted(ids, array[within(array, ids)])] = True
    return ids[~here]


def _is_index(path: str, index: str) -> bool:
    return path == index or path.startswith(f"{index}/")
