"""Order by hash, not by a generator: it survives any change of row order, shards or workers.

One sha256 per sample and seed gives a 64-bit key; each epoch permutes the keys by a bijection,
so that eight epochs of a million items cost one hashing and eight sorts. N items of an epoch,
U of them unsafe.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

# Finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection on 64 bits, so no ties arise.
STEP = np.uint64(0x9E3779B97F4A7C15)
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def hash_keys(sample_ids: Iterable[str], *, seed: int) -> np.ndarray:
    """(N,) uint64: the first 8 bytes of sha256(`seed:sample_id`)."""
    prefix, digest = f"{seed}:".encode(), hashlib.sha256
    digests = [digest(prefix + own.encode()).digest() for own in sample_ids]
    return np.frombuffer(b"".join(digests), ">u8")[::4].astype(np.uint64)


def stirred(keys: np.ndarray, times: int | np.ndarray) -> np.ndarray:
    """(N,) uint64: another order of the same keys for every number (0 gives one more)."""
    with np.errstate(over="ignore"):
        z = keys + STEP * np.asarray(times, np.uint64)
        z = (z ^ (z >> np.uint64(30))) * MIX[0]
        z = (z ^ (z >> np.uint64(27))) * MIX[1]
    return z ^ (z >> np.uint64(31))


def by_key(keys: np.ndarray) -> np.ndarray:
    """(N,) int64: a stable argsort, three times as fast where all keys differ, as hashes do."""
    order = np.argsort(keys)
    ordered = keys[order]
    if (ordered[1:] == ordered[:-1]).any():
        return np.argsort(keys, kind="stable")
    return order


def first_by_key(keys: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64: where the smallest keys are, in no order; of equal ones the first."""
    if 0 < count < len(keys):
        some = np.argpartition(keys, count - 1)[:count]
        if np.count_nonzero(keys <= keys[some].max()) == count:
            return some
    return by_key(keys)[:count]


def plan_order(
    rows: np.ndarray, keys: np.ndarray, *, unsafe: np.ndarray, epochs: int
) -> np.ndarray:
    """The sequence of rows over all epochs, unsafe and clean spread evenly.

    Position i is unsafe iff floor((i+1)U/N) > floor(iU/N). So every contiguous window, of any
    batch size and also across epochs, holds the ratio to within one item.

    Args:
        rows: (N,) row of each item of an epoch; a row may occur more than once.
        keys: (N,) uint64, distinct; they decide the order within each side.
        unsafe: (N,) bool.
        epochs: how often every item comes.

    Returns:
        (epochs * N,) int32.
    """
    total, risky = len(rows), int(unsafe.sum())
    place = np.arange(total + 1, dtype=np.int64) * risky // max(total, 1)
    pattern = place[1:] > place[:-1]
    sides = [(rows[side], keys[side]) for side in (unsafe, ~unsafe)]
    plan = np.empty((epochs, total), np.int32)
    for epoch, line in enumerate(plan):
        for (own, key), places in zip(sides, (pattern, ~pattern), strict=True):
            line[places] = own[by_key(stirred(key, epoch))]
    return plan.reshape(-1)
