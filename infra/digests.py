"""Many sha256 digests at once: 32 bytes each in arrays, where Python's texts take 113.

Arrays [N] are of numpy's type S, which sorts as the bytes do. Taken out one by one its items lose
the zeros at their end: they stay in arrays.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

# Each array of a lookup is so many times as large as the next: few arrays, few moves.
GROWTH = 4


def digests(ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Hexadecimal texts of 64 characters -> [N] S32; ValueError for anything else."""
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        if ids.null_count:
            raise ValueError("an id is missing")
        text = raw(ids.cast(pa.binary()).cast(pa.binary(64))).tobytes().decode("ascii")
    else:
        text = "".join(ids)
    return np.frombuffer(bytes.fromhex(text), dtype="S32")


def raw(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Binary values of one width W, none missing -> [N] SW."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    kind = f"S{column.type.byte_width}"
    parts = [np.frombuffer(c.buffers()[1], kind)[c.offset : c.offset + len(c)] for c in chunks]
    return np.concatenate([np.empty(0, kind), *parts])


def binary(values: np.ndarray) -> pa.Array:
    """[N] SW -> binary values of width W."""
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.binary(values.itemsize), len(values), [None, buffer])


def texts(found: np.ndarray) -> list[str]:
    """[N] S32 -> hexadecimal texts."""
    whole, size = np.ascontiguousarray(found).tobytes().hex(), 2 * found.itemsize
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def within(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the keys [N] are in a sorted array: numpy's isin would sort both each time."""
    if not len(known):
        return np.zeros(len(keys), dtype=bool)
    return known[np.searchsorted(known, keys).clip(max=len(known) - 1)] == keys


class Lookup:
    """Digest -> value, in a few sorted arrays.

    What is added is merged with the arrays that are not much larger: of N things that come bit by
    bit each is moved some log(N) times, and there are never more than log(N) arrays to look into.
    """

    def __init__(self, dtype: str, *, absent: object) -> None:
        self._absent = np.array(absent, dtype=dtype)
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Keep keys [N] with their values [N]; the later value of a key counts."""
        fresh, size, kept = [(keys, values)], len(keys), len(self._runs)
        while kept and len(self._runs[kept - 1][0]) < GROWTH * size:
            kept -= 1
            fresh.append(self._runs[kept])
            size += len(fresh[-1][0])
        if size:
            # In one act: other threads look things up meanwhile.
            self._runs = [*self._runs[:kept], _merged(fresh)]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The value of each key [N], `absent` for an unknown one."""
        values = np.full(len(keys), self._absent)
        for run, held in self._runs:
            near = np.searchsorted(run, keys).clip(max=len(run) - 1)
            here = run[near] == keys
            values[here] = held[near[here]]
        return values

    def items(self) -> tuple[np.ndarray, np.ndarray]:
        """All keys in order, each once, and their values; there is at least one."""
        return _merged(self._runs[::-1])


def _merged(runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Runs of keys and values, the latest first -> one, sorted, each key once."""
    keys, values = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    keys, latest = np.unique(keys, return_index=True)
    return keys, values[latest]
