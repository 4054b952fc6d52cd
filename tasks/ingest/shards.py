"""Images -> `images/part-*.parquet`: each once, sorted by id, in bounded memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from infra.parts import part_name
from schemas.samples import IMAGES
from tasks.ingest.images import Picture

IMAGES_PER_GROUP = 256
BYTES_PER_GROUP = 256_000_000
BYTES_PER_PART = 1_000_000_000


class _Place(NamedTuple):
    start: int
    size: int
    format: str
    width: int
    height: int


class ImageSpool:
    """Collects images in a temporary file, then writes them out in the order of their ids.

    Sources come in any order and may be larger than memory; only the index is held.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._index: dict[str, _Place] = {}

    def __len__(self) -> int:
        return len(self._index)

    def add(self, picture: Picture) -> None:
        """Keep an image unless its like is here already."""
        if picture.image_id in self._index:
            return
        start = self._file.seek(0, 2)
        self._file.write(picture.data)
        self._index[picture.image_id] = _Place(
            start, len(picture.data), picture.format, picture.width, picture.height
        )

    def write(self, folder: Path) -> None:
        """Write the parts; a group of up to 256 images is one row group, read as a whole later."""
        folder.mkdir()
        groups = list(self._groups())
        part, written, writer = 0, 0, self._open(folder, 0)
        for group in groups:
            size = sum(self._index[i].size for i in group)
            if written and written + size > BYTES_PER_PART:
                writer.close()
                part, written = part + 1, 0
                writer = self._open(folder, part)
            writer.write_table(self._table(group), row_group_size=IMAGES_PER_GROUP)
            written += size
        writer.close()

    def _groups(self) -> Iterator[list[str]]:
        group: list[str] = []
        size = 0
        for image_id in sorted(self._index):
            more = self._index[image_id].size
            if group and (len(group) == IMAGES_PER_GROUP or size + more > BYTES_PER_GROUP):
                yield group
                group, size = [], 0
            group.append(image_id)
            size += more
        if group:
            yield group

    def _table(self, group: list[str]) -> pa.Table:
        places = [self._index[i] for i in group]
        columns = [group, [self._bytes(p) for p in places]]
        columns += [
            list(c) for c in zip(*((p.format, p.width, p.height) for p in places), strict=True)
        ]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, IMAGES, strict=True)]
        return pa.Table.from_arrays(arrays, schema=IMAGES)

    def _bytes(self, place: _Place) -> bytes:
        self._file.seek(place.start)
        return self._file.read(place.size)

    @staticmethod
    def _open(folder: Path, part: int) -> pq.ParquetWriter:
        # Encoded images do not shrink, and statistics of bytes are bytes again.
        return pq.ParquetWriter(
            folder / part_name(part),
            IMAGES,
            compression="none",
            use_dictionary=False,
            write_statistics=["image_id"],
        )
