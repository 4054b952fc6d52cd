"""New images on their way into the root's library: collected in a file, written in whole shards."""

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from infra.library import Library
from schemas.samples import IMAGES
from tasks.images import BYTES_PER_GROUP, IMAGES_PER_GROUP, SCHEMA, write_images
from tasks.ingest.images import Picture

IMAGES_PER_SHARD = 16_384
BYTES_PER_SHARD = 512_000_000


class _Place(NamedTuple):
    start: int
    size: int
    facts: dict[str, object]


class ImageSpool:
    """The images of a snapshot: those that the library has, and the new ones until it has them.

    Sources come in any order and may be larger than memory; only an index is held.
    """

    def __init__(self, library: Library, file: BinaryIO) -> None:
        self.library = library
        self.decoded = 0
        self.new_bytes = 0
        self._file = file
        self._used: set[str] = set()
        self._new: dict[str, _Place] = {}
        self._bytes = 0

    def knows(self, image_id: str) -> bool:
        """Whether an image need not be decoded again."""
        return image_id in self._new or self.library.places([image_id])[0] >= 0

    def use(self, image: Picture | str) -> str:
        """Let the snapshot have a new image, or one that is known by its id; returns the id."""
        if isinstance(image, str):
            self._used.add(image)
            return image
        self._used.add(image.image_id)
        if not self.knows(image.image_id):
            self._add(image)
        return image.image_id

    def facts(self) -> pa.Table:
        """One row of IMAGES per image of the snapshot, by id; the library has them all then."""
        self._flush()
        ids = sorted(self._used)
        if not ids:
            return IMAGES.empty_table()
        return self.library.facts(ids).cast(IMAGES)

    def _add(self, picture: Picture) -> None:
        start = self._file.seek(0, 2)
        self._file.write(picture.data)
        facts = {name: getattr(picture, name) for name in IMAGES.names}
        self._new[picture.image_id] = _Place(start, len(picture.data), facts)
        self._bytes += len(picture.data)
        self.decoded += 1
        self.new_bytes += len(picture.data)
        if len(self._new) == IMAGES_PER_SHARD or self._bytes >= BYTES_PER_SHARD:
            self._flush()

    def _flush(self) -> None:
        if not self._new:
            return
        ids = sorted(self._new)
        index = pa.Table.from_pylist([self._new[i].facts for i in ids], IMAGES)
        self.library.add(index, partial(write_images, groups=self._groups(ids)))
        self._new, self._bytes = {}, 0
        self._file.truncate(0)

    def _groups(self, ids: list[str]) -> Iterator[pa.Table]:
        """Up to 256 images at a time, each a row group that is read as a whole later."""
        group: list[str] = []
        size = 0
        for image_id in ids:
            more = self._new[image_id].size
            if group and (len(group) == IMAGES_PER_GROUP or size + more > BYTES_PER_GROUP):
                yield self._table(group)
                group, size = [], 0
            group.append(image_id)
            size += more
        yield self._table(group)

    def _table(self, group: list[str]) -> pa.Table:
        data = [self._bytes_of(self._new[i]) for i in group]
        return pa.table([pa.array(group), pa.array(data, pa.binary())], schema=SCHEMA)

    def _bytes_of(self, place: _Place) -> bytes:
        self._file.seek(place.start)
        return self._file.read(place.size)
