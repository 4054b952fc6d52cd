"""Groups of images that show the same: near duplicates by perceptual hash, pairs of one row.

N images; hashes are 256 bits. With a limit of 15 bits, at least one of 16 bands of 16 bits is equal
(pigeonhole), so only images that share a band are compared.
"""

from collections.abc import Sequence

import numpy as np

from tasks.ingest.phash import LEAST_QUALITY

BANDS = 16


def group_images(
    hashes: Sequence[str], qualities: Sequence[int], *, rows: np.ndarray, bits: int
) -> np.ndarray:
    """The first image of each image's group, [N] int64.

    Args:
        hashes: N hexadecimal hashes.
        qualities: N qualities; an image below PDQ's least is like no other.
        rows: [M, 2] pairs of images that one row shows together.
        bits: most bits in which near duplicates differ, at most 15.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(hashes)
    if not count:
        return np.zeros(0, dtype=np.int64)
    digests = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(count, 32)
    good = np.flatnonzero(np.asarray(qualities) >= LEAST_QUALITY)
    pairs = np.concatenate([good[near_pairs(digests[good], bits=bits)], rows])
    edges = coo_array((np.ones(len(pairs), dtype=bool), pairs.T), shape=(count, count))
    _, labels = connected_components(edges, directed=False)
    _, first = np.unique(labels, return_index=True)
    return first[labels]


def near_pairs(digests: np.ndarray, *, bits: int) -> np.ndarray:
    """Pairs [P, 2] whose hashes [N, 32] uint8 differ in at most `bits` (15 at most) bits.

    Where many are alike, each is paired with the next of its kind: the groups are the same.
    """
    unique, place, inverse = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    same = np.flatnonzero(place[inverse] != np.arange(len(digests)))
    found = [np.stack([place[inverse[same]], same], axis=1)]
    words = np.ascontiguousarray(unique).view(np.uint64)
    for band in np.ascontiguousarray(unique).view(np.uint16).T:
        found += [place[pair] for pair in _within(band, words, bits)]
    return np.concatenate(found)


def _within(band: np.ndarray, words: np.ndarray, bits: int) -> list[np.ndarray]:
    """Near pairs among those that share a value of one band [N]; words are [N, 4] uint64."""
    order = np.argsort(band, kind="stable")
    values, found = band[order], []
    left = np.arange(len(order))
    for apart in range(1, len(order)):
        left = left[left < len(order) - apart]
        left = left[values[left] == values[left + apart]]
        if not left.size:
            break
        one, two = order[left], order[left + apart]
        differing = np.bitwise_count(words[one] ^ words[two]).sum(axis=1)
        near = differing <= bits
        found.append(np.stack([one[near], two[near]], axis=1))
    return found
