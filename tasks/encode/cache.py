"""h_o of an encode artifact's images by id: from the feature library, or encoded on the fly."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from infra.cache import room
from infra.library import INDEX, Library, root_of, vanished
from schemas.artifact import Artifact
from tasks.encode.fly import OnTheFly
from tasks.encode.shards import ENCODER, FEATURES, RAGGED, SHARD_VERSION, SHARDS, SPAN
from tasks.encode.sight import as_float
from tasks.encode.staged import Staged, bytes_here

if TYPE_CHECKING:
    import numpy as np
    import torch

    from model.features import ImagePatches


class FeatureCache:
    """The features of an encode artifact by image id.

    Args:
        artifact: what encode has made.
        readers: how many processes of this machine read so, and share its disk.

    Raises:
        ConfigError: there is no room here for a single image's features.
        StorageError: features, or the images to encode, are not in the artifact's root any more;
            it is then taken out of use, so that the next run makes it again.
    """

    def __init__(self, artifact: Artifact, *, readers: int = 1) -> None:
        root = root_of(artifact)
        named = pq.read_table(root.local(artifact) / INDEX)
        self.source: Kept | Staged | OnTheFly
        if ENCODER in (named.schema.metadata or {}):
            self.source = kept(artifact, named, readers=readers)
        else:
            self.source = OnTheFly(artifact, root, named)

    def expect(self, upcoming: Callable[[int], Sequence[str]]) -> None:
        """Tell what will be read from now on: `upcoming(n)` gives at most n ids in that order.

        What is read otherwise is found as well, only not ahead of time.
        """
        self.source.expect(upcoming)

    def patches(self, image_ids: Sequence[str]) -> "np.ndarray":
        """P of each of these images, [N]."""
        return self.source.patches(image_ids)

    def batch(self, image_ids: Sequence[str]) -> "torch.Tensor | list[ImagePatches]":
        """h_o of these images, float32: [B, P, V], or one [P, V] each where P differs by image."""
        return self.source.batch(image_ids)


def kept(artifact: Artifact, named: pa.Table, *, readers: int) -> "Kept | Staged":
    """Features in shards: in place, copied whole where they fit here, else row by row."""
    root, encoder = root_of(artifact), named.schema.metadata[ENCODER].decode()
    library = Library(root, SHARDS, SHARD_VERSION, encoder=encoder)
    ids = named["image_id"].to_pylist()
    if missing := library.missing(ids):
        raise vanished(artifact, what=f"the features of {len(missing)} images are gone")
    if "://" in root.root:
        here, more = bytes_here(library, ids)
        if more > (left := room(here)):
            return Staged(library, ids, budget=left // readers)
    return Kept(library, ids)


class Kept:
    """Features in shards on this disk, memory-mapped."""

    def __init__(self, library: Library, ids: Sequence[str]) -> None:
        import numpy as np

        self.library = library
        folders = {number: self.library.folder(number) for number in self.library.spread(ids)}
        self.arrays = {n: np.load(at / FEATURES, mmap_mode="r") for n, at in folders.items()}
        # Where P differs by image: its first row, its rows, its height and width.
        self.spans = {
            n: pq.read_table(folders[n] / INDEX, columns=SPAN)
            for n, array in self.arrays.items()
            if array.ndim == RAGGED
        }

    def expect(self, upcoming: Callable[[int], Sequence[str]]) -> None:
        """All is here already."""

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
        """h_o of these images, float32."""
        import numpy as np

        if self.spans:
            return self._one_by_one(image_ids)
        within = self.library.rows_within(image_ids)
        some = next(iter(self.arrays.values()))
        block = np.empty((len(image_ids), *some.shape[1:]), dtype=some.dtype)
        for number, positions in self.library.spread(image_ids).items():
            block[positions] = self.arrays[number][within[positions]]
        return as_float(block)

    def _one_by_one(self, image_ids: Sequence[str]) -> "list[ImagePatches]":
        from model.features import ImagePatches

        within = self.library.rows_within(image_ids)
        found: dict[int, ImagePatches] = {}
        for number, places in self.library.spread(image_ids).items():
            spans = self.spans[number].take(within[places])
            columns = (spans[name].to_pylist() for name in SPAN)
            for place, first, rows, high, wide in zip(places.tolist(), *columns, strict=True):
                patches = as_float(self.arrays[number][first : first + rows].copy())
                found[place] = ImagePatches(patches, (high, wide))
        return [found[place] for place in range(len(image_ids))]
