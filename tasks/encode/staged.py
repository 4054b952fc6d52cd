"""Features in a bucket that are too many for this disk: read row by row, in the order of the plan.

A plan draws images from everywhere, and nearly every batch has some of every shard: to copy whole
shards by turns would move each many times over. Rows have a fixed place in their file.
"""

import io
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from infra import cache, staging
from infra.files import Files
from infra.index import read_index
from infra.integrity import attempt, present
from infra.library import Library
from schemas.artifact import Manifest
from schemas.errors import StorageError
from tasks.encode.shards import FEATURES, RAGGED, SPAN
from tasks.encode.sight import as_tensor
from tasks.encode.stage import READERS, Stage

if TYPE_CHECKING:
    import torch

    from model.features import ImagePatches

HEADER = 512  # bytes from a file's begin that hold numpy's header
Upcoming = Callable[[int], Sequence[str]]


class Head(NamedTuple):
    """A shard's array: its file, where the numbers begin, its shape and type."""

    path: str
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def stride(self) -> int:
        """Bytes from one row to the next."""
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize


class Staged:
    """The features of the library's shards by image id, through a stage of `budget` bytes."""

    def __init__(self, library: Library, image_ids: Sequence[str], *, budget: int) -> None:
        self.library = library
        self._files = Files.at(library.store.root)
        with ThreadPoolExecutor(READERS) as pool:
            numbers = list(library.spread(image_ids))
            self._heads = dict(zip(numbers, pool.map(self._head, numbers), strict=True))
        largest = max((self._largest(n) for n in self._heads), default=1)
        self.stage = Stage(self._fetch, size=largest, budget=budget)

    def expect(self, upcoming: Upcoming) -> None:
        """Begin to fetch what will be read."""
        self.stage.expect(upcoming)

    def patches(self, image_ids: Sequence[str]) -> np.ndarray:
        """P of each of these images, [N]."""
        if not self._spans:
            return np.full(len(image_ids), next(iter(self._heads.values())).shape[1])
        counts = np.zeros(len(image_ids), dtype=np.int64)
        within = self.library.rows_within(image_ids)
        for number, places in self.library.spread(image_ids).items():
            counts[places] = self._spans[number]["rows"].to_numpy()[within[places]]
        return counts

    def batch(self, image_ids: Sequence[str]) -> "torch.Tensor | list[ImagePatches]":
        """h_o of these images as it is kept."""
        import torch

        from model.features import ImagePatches

        head = next(iter(self._heads.values()))
        found = [
            as_tensor(np.frombuffer(data, head.dtype).reshape(-1, head.shape[-1]).copy())
            for data in self.stage.take(image_ids)
        ]
        if not self._spans:
            return torch.stack(found)
        sizes = [(span["height"], span["width"]) for span in map(self._span, image_ids)]
        return [ImagePatches(rows, size) for rows, size in zip(found, sizes, strict=True)]

    @cached_property
    def _spans(self) -> dict[int, pa.Table]:
        """Where P differs by image: its first row, its rows, its height and width."""
        ragged = [n for n, head in self._heads.items() if len(head.shape) == RAGGED]
        return {n: read_index(self._files, self._manifest(n), facts=True)[1] for n in ragged}

    def _span(self, image_id: str) -> dict[str, int]:
        """What the index of its shard tells of an image."""
        number, row = self._place(image_id)
        return self._spans[number].slice(row, 1).select(SPAN).to_pylist()[0]

    def _place(self, image_id: str) -> tuple[int, int]:
        """Number of its shard, and row there."""
        (number,) = self.library.spread([image_id])
        return number, int(self.library.rows_within([image_id])[0])

    def _fetch(self, image_id: str) -> bytes:
        """An image's part of its shard's file.

        Raises:
            StorageError: it is not there any more, or cut short.
        """
        number, row = self._place(image_id)
        head, count = self._heads[number], 1
        if self._spans:
            span = self._span(image_id)
            row, count = span["first_row"], span["rows"]
        size = count * head.stride
        data = self._files.read_part(head.path, head.start + row * head.stride, size)
        if data is None or len(data) != size:
            raise StorageError(
                f"{self._files.address}/{head.path} ends before the features of image {image_id}: "
                "`psavlm verify` takes it out of use, and the next run encodes its images again"
            )
        return data

    def _largest(self, number: int) -> int:
        """Bytes of the largest image of a shard."""
        head, spans = self._heads[number], self._spans.get(number)
        return head.stride * (1 if spans is None else max(spans["rows"].to_pylist(), default=0))

    def _manifest(self, number: int) -> Manifest:
        shard = self.library.shards[number]
        return present(self._files, f"{shard.step}/{shard.fingerprint}")

    def _head(self, number: int) -> Head:
        path = f"{attempt(self._manifest(number))}/{FEATURES}"
        lead = io.BytesIO(self._files.read_part(path, 0, HEADER) or b"")
        try:
            np.lib.format.read_magic(lead)
            shape, _, dtype = np.lib.format.read_array_header_1_0(lead)
        except ValueError:
            raise StorageError(
                f"{self._files.address}/{path} is no array of features: `psavlm verify` takes it "
                "out of use, and the next run encodes its images again"
            ) from None
        return Head(path, lead.tell(), shape, dtype)


def bytes_here(library: Library, image_ids: Sequence[str]) -> tuple[int, int]:
    """Bytes that all features take on this disk, and those that these images' shards lack.

    What they lack and there is room for is claimed for as long as the library is in use, and counts
    as here.
    """
    files = Files.at(library.store.root)

    def one(number: int) -> tuple[str, int]:
        shard = library.shards[number]
        manifest = present(files, f"{shard.step}/{shard.fingerprint}")
        name = f"{shard.step}/{shard.fingerprint}/{manifest.attempt}"
        return name, sum(entry.bytes for entry in manifest.files)

    with ThreadPoolExecutor(READERS) as pool:
        wanted = dict(pool.map(one, library.spread(image_ids)))
    with staging.ledger() as ledger:
        taken = ledger.taken()
        here = sum(taken.values())
        more = sum(size for name, size in wanted.items() if name not in taken)
        if more > cache.room(here):
            return here, more
        weakref.finalize(library, ledger.claim(wanted).close)
    return here + more, 0
