"""The feature library: h_o of every image by id, in shards that never change.

A shard is one array `features.npy` [N, P, V] (bfloat16 as uint16), readable by memory map at a
fixed stride. Where an image's patches depend on its size they lie one behind the other,
[sum of P, V], and the index tells each image's first row, its rows, and its height and width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.library import INDEX, Library, root_of, vanished
from schemas.artifact import Artifact

if TYPE_CHECKING:
    import numpy as np
    import torch

    from model.features import ImagePatches

FEATURES = "features.npy"
SPAN = ["first_row", "rows", "height", "width"]
RAGGED = 2  # axes of an array of images that lie one behind the other
SHARDS, SHARD_VERSION = "features", 1
IMAGES_PER_SHARD = 8_192
BYTES_PER_SHARD = 2 << 30  # a shard is built in memory
ENCODER = b"psavlm.encoder"


class Shards:
    """Encoded images on their way into shards; what is in a shard is never encoded again."""

    def __init__(self, library: Library, dtype: str) -> None:
        self.library = library
        self.dtype = dtype
        self.bytes = 0
        self._held = 0
        self._ids: list[str] = []
        self._rows: list[np.ndarray] = []
        self._sizes: list[tuple[int, int]] = []

    def add(self, ids: Sequence[str], features: "torch.Tensor | list[ImagePatches]") -> None:
        """Takes in a batch; writes a shard when it is full."""
        import torch

        self._ids += ids
        if isinstance(features, torch.Tensor):
            rows = list(_as_stored(features, self.dtype))
        else:
            rows = [_as_stored(image.rows, self.dtype) for image in features]
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
        self._ids, self._rows, self._sizes, self._held = [], [], [], 0


def _as_stored(features: Any, dtype: str) -> "np.ndarray":
    import torch

    kept = features.to(getattr(torch, dtype)).cpu()
    return kept.view(torch.uint16).numpy() if dtype == "bfloat16" else kept.numpy()


class FeatureCache:
    """The features of an encode artifact by image id, memory-mapped.

    Raises:
        StorageError: features are in no shard of the artifact's root; it is then taken out of use,
            so that the next run encodes them again.
    """

    def __init__(self, artifact: Artifact) -> None:
        import numpy as np

        root = root_of(artifact)
        named = pq.read_table(root.local(artifact) / INDEX)
        encoder = named.schema.metadata[ENCODER].decode()
        self.library = Library(root, SHARDS, SHARD_VERSION, encoder=encoder)
        ids = named["image_id"].to_pylist()
        if missing := self.library.missing(ids):
            raise vanished(artifact, what=f"the features of {len(missing)} images are gone")
        folders = {number: self.library.folder(number) for number in self.library.spread(ids)}
        self.arrays = {n: np.load(at / FEATURES, mmap_mode="r") for n, at in folders.items()}
        # Where P differs by image: its first row, its rows, its height and width.
        self.spans = {
            n: pq.read_table(folders[n] / INDEX, columns=SPAN)
            for n, array in self.arrays.items()
            if array.ndim == RAGGED
        }

    def patches(self, image_ids: Sequence[str]) -> "np.ndarray":
        """P of each of these images, [N]."""
        import numpy as np

        counts = np.zeros(len(image_ids), dtype=np.int64)
        if not self.spans:
            return counts + (next(iter(self.arrays.values())).shape[1] if self.arrays else 0)
        within = self.library.rows_within(image_ids)
        for number, places in self.library.spread(image_ids).items():
            counts[places] = self.spans[number]["rows"].to_numpy()[within[places]]
        return counts

    def batch(self, image_ids: Sequence[str]) -> "torch.Tensor | list[ImagePatches]":
        """h_o of these images, float32: [B, P, V], or one [P, V] each where P differs by image."""
        import numpy as np

        if self.spans:
            return self._one_by_one(image_ids)
        within = self.library.rows_within(image_ids)
        some = next(iter(self.arrays.values()))
        block = np.empty((len(image_ids), *some.shape[1:]), dtype=some.dtype)
        for number, positions in self.library.spread(image_ids).items():
            block[positions] = self.arrays[number][within[positions]]
        return _as_float(block)

    def _one_by_one(self, image_ids: Sequence[str]) -> "list[ImagePatches]":
        from model.features import ImagePatches

        within = self.library.rows_within(image_ids)
        found: dict[int, ImagePatches] = {}
        for number, places in self.library.spread(image_ids).items():
            spans = self.spans[number].take(within[places])
            columns = (spans[name].to_pylist() for name in SPAN)
            for place, first, rows, high, wide in zip(places.tolist(), *columns, strict=True):
                patches = _as_float(self.arrays[number][first : first + rows].copy())
                found[place] = ImagePatches(patches, (high, wide))
        return [found[place] for place in range(len(image_ids))]


def _as_float(stored: "np.ndarray") -> "torch.Tensor":
    import torch

    found = torch.from_numpy(stored)
    return found.view(torch.bfloat16).float() if found.dtype == torch.uint16 else found
