"""Groups of images that show the same: near duplicates by perceptual hash, pairs of one row.

N images; a hash is four words of 64 bits, each cut into five bands. Where at most 15 bits differ,
some word has at most 3 of them, and two of its bands none: only images that share two bands of a
word are compared. These are some 26 bits, in which few others agree by chance.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa

from infra.digests import digests
from tasks.decoder.phash import LEAST_QUALITY

BANDS = [(2**13 - 1) << start & (2**64 - 1) for start in range(0, 64, 13)]
MASKS = [np.uint64(one | two) for one, two in combinations(BANDS, 2)]
# Pairs that are held at once: of ten thousand pictures that are all alike there are 50 million.
MOST_PAIRS = 4_000_000


def group_images(
    hashes: Sequence[str] | pa.ChunkedArray,
    qualities: Sequence[int],
    *,
    rows: np.ndarray,
    bits: int,
) -> np.ndarray:
    """The first image of each image's group, [N] int64.

    Args:
        hashes: N hexadecimal hashes.
        qualities: N qualities; an image below PDQ's least is like no other.
        rows: [M, 2] pairs of images that one row shows together.
        bits: most bits in which near duplicates differ, at most 15.
    """
    first = _joined(np.arange(len(hashes)), [rows])
    good = np.flatnonzero(np.asarray(qualities) >= LEAST_QUALITY)
    held: list[np.ndarray] = []
    for pairs in near_pairs(digests(hashes)[good], bits=bits):
        held.append(good[pairs])
        if sum(map(len, held)) > MOST_PAIRS:
            first, held = _joined(first, held), []
    return _joined(first, held)


def _joined(first: np.ndarray, pairs: Sequence[np.ndarray]) -> np.ndarray:
    """Groups, known by their first images [N], after pairs [M, 2] of images have met."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(first) or not pairs:
        return first
    edges, count = first[np.concatenate(pairs)], len(first)
    graph = coo_array((np.ones(len(edges), dtype=bool), edges.T), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    least = np.empty(count, dtype=np.int64)
    least[labels[::-1]] = np.arange(count)[::-1]  # the last that is written stays: the first image
    return least[labels][first]


def near_pairs(hashes: np.ndarray, *, bits: int) -> Iterator[np.ndarray]:
    """Pairs [P, 2] of hashes, [N] S32, that differ in at most `bits` (15 at most) bits.

    Where many are equal, each is paired with the first of its kind: the groups are the same.
    """
    unique, place, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    same = np.flatnonzero(place[inverse] != np.arange(len(hashes)))
    yield np.stack([place[inverse[same]], same], axis=1)
    words = unique.view(np.uint64).reshape(-1, 4)
    for word in words.T:
        for mask in MASKS:
            for pairs in _within(word & mask, words, bits):
                yield place[pairs]


def _within(keys: np.ndarray, words: np.ndarray, bits: int) -> Iterator[np.ndarray]:
    """Near pairs among those that share a key [N]; words are [N, 4] uint64."""
    order = np.argsort(keys)
    keys = keys[order]
    left = np.arange(len(order))
    for apart in range(1, len(order)):
        left = left[left < len(order) - apart]
        left = left[keys[left] == keys[left + apart]]
        if not left.size:
            break
        one, two = order[left], order[left + apart]
        near = np.bitwise_count(words[one] ^ words[two]).sum(axis=1) <= bits
        yield np.stack([one[near], two[near]], axis=1)
