"""h_o of an encode artifact's images by id: from the feature library, or encoded on the fly."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from infra.cache import room
from infra.library import INDEX, Library, root_of, vanished
from schemas.artifact import Artifact
from tasks.encode.fly import OnTheFly
from tasks.encode.shards import ENCODER, FEATURES, RAGGED, SHARD_VERSION, SHARDS, SPAN
from tasks.encode.sight import as_tensor
from tasks.encode.staged import Staged, bytes_here

if TYPE_CHECKING:
    import numpy as np
    import torch

    from model.features import ImagePatches

AHEAD = 256  # images that are read before their turn
STAYS = 1 << 30  # bytes of features: fewer soon lie in memory by themselves


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
        """h_o of these images: [B, P, V], or one [P, V] each where P differs by image.

        Float32, or bfloat16 where that is what is kept: what reads them widens them exactly.
        """
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
        # Plain arrays over the maps: a numpy.memmap takes its time for each row.
        self.arrays = {
            number: np.asarray(np.load(at / FEATURES, mmap_mode="r"))
            for number, at in folders.items()
        }
        # Where P differs by image: its first row, its rows, its height and width.
        self.spans = {
            n: pq.read_table(folders[n] / INDEX, columns=SPAN)
            for n, array in self.arrays.items()
            if array.ndim == RAGGED
        }
        self._bytes = sum(array.nbytes for array in self.arrays.values())
        self._thread, self._reading = ThreadPoolExecutor(1), Future[None]()
        self._reading.set_result(None)
        self._near: set[str] = set()

    def expect(self, upcoming: Callable[[int], Sequence[str]]) -> None:
        """Let a thread read what comes from the disk while the step computes."""
        if self._bytes >= STAYS and self._reading.done():
            self._reading = self._thread.submit(self._read_ahead, upcoming)

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
        """h_o of these images as it is kept; a block that a GPU will read in pinned memory."""
        import numpy as np
        import torch

        places = self._places(image_ids)
        if self.spans:
            return [self._alone(*place) for place in places]
        some = next(iter(self.arrays.values()))
        kind = torch.from_numpy(np.empty(0, some.dtype)).dtype
        shape, pinned = (len(places), *some.shape[1:]), torch.cuda.is_available()
        block = torch.empty(shape, dtype=kind, pin_memory=pinned).numpy()
        for to, (number, row) in enumerate(places):
            block[to] = self.arrays[number][row]
        return as_tensor(block)

    def _alone(self, number: int, row: int) -> "ImagePatches":
        from model.features import ImagePatches

        span = self._span(number, row)
        patches = as_tensor(self._rows(number, row).copy())
        return ImagePatches(patches, (span["height"], span["width"]))

    def _places(self, image_ids: Sequence[str]) -> list[tuple[int, int]]:
        """Shard of each image, and its row there."""
        numbers, rows = self.library.located(image_ids)
        return list(zip(numbers.tolist(), rows.tolist(), strict=True))

    def _span(self, number: int, row: int) -> dict[str, int]:
        """What the index of its shard tells of an image."""
        return self.spans[number].slice(row, 1).to_pylist()[0]

    def _rows(self, number: int, row: int) -> "np.ndarray":
        """An image's features where they lie."""
        if not self.spans:
            return self.arrays[number][row]
        span = self._span(number, row)
        return self.arrays[number][span["first_row"] :][: span["rows"]]

    def _read_ahead(self, upcoming: Callable[[int], Sequence[str]]) -> None:
        """Touch what comes: its pages are in memory then. The copy lets Python's lock go."""
        names = list(dict.fromkeys(upcoming(AHEAD)))[:AHEAD]
        fresh = [name for name in names if name not in self._near]
        self._near = set(names)
        for place in self._places(fresh):
            self._rows(*place).copy()
