"""The feature library: h_o of every image by id, in shards that never change.

A shard is one array `features.npy` [N, P, V] (bfloat16 as uint16), readable by memory map at a
fixed stride. Where an image's patches depend on its size they lie one behind the other,
[sum of P, V], and the index tells each image's first row, its rows, and its height and width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from infra import cache, staging
from infra.library import Library
from tasks.encode.sight import as_kept

if TYPE_CHECKING:
    import numpy as np
    import torch

    from model.features import ImagePatches

FEATURES = "features.npy"
SPAN = ["first_row", "rows", "height", "width"]
RAGGED = 2  # axes of an array of images that lie one behind the other
SHARDS, SHARD_VERSION = cache.FEATURES, 1
IMAGES_PER_SHARD = 8_192
BYTES_PER_SHARD = 2 << 30  # a shard is built in memory
ENCODER = b"psavlm.encoder"


class Shards:
    """Encoded images on their way into shards; what is in a shard is never encoded again."""

    def __init__(self, library: Library, dtype: str) -> None:
        self.library = library
        self.dtype = dtype
        self.bytes = 0
        self._first, self._fit = len(library.shards), True
        self._held = 0
        self._ids: list[str] = []
        self._rows: list[np.ndarray] = []
        self._sizes: list[tuple[int, int]] = []

    def add(self, ids: Sequence[str], features: "torch.Tensor | list[ImagePatches]") -> None:
        """Takes in a batch; writes a shard when it is full."""
        import torch

        self._ids += ids
        if isinstance(features, torch.Tensor):
            rows = list(as_kept(features, self.dtype))
        else:
            rows = [as_kept(image.rows, self.dtype) for image in features]
            self._sizes += [image.size for image in features]
        self._rows += rows
        size = sum(row.nbytes for row in rows)
        self.bytes += size
        self._held += size
        if len(self._ids) >= IMAGES_PER_SHARD or self._held >= BYTES_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Writes what there is as a shard, ordered by id."""
        import numpy as np

        if not self._ids:
            return
        order = np.argsort(self._ids)
        rows = [self._rows[i] for i in order]
        index: dict[str, Any] = {"image_id": [self._ids[i] for i in order]}
        block = np.concatenate(rows) if self._sizes else np.stack(rows)
        if self._sizes:
            counts = [len(row) for row in rows]
            sizes = zip(*(self._sizes[i] for i in order), strict=True)
            starts = [0, *np.cumsum(counts)[:-1].tolist()]
            index |= zip(SPAN, (starts, counts, *sizes), strict=True)
        self.library.add(pa.table(index), lambda folder: np.save(folder / FEATURES, block))
        self._leave_room()
        self._ids, self._rows, self._sizes, self._held = [], [], [], 0

    def _leave_room(self) -> None:
        """Keep copies of a bucket's shards only while all of them fit on this disk."""
        if "://" not in self.library.store.root:
            return
        self._fit = self._fit and staging.fits(self.bytes)
        if not self._fit:
            for number in range(self._first, len(self.library.shards)):
                self.library.forget(number)
            self._first = len(self.library.shards)
