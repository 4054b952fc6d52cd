"""Single images of a snapshot: where each one's bytes lie in the library's files, and they read.

The library's files are Parquet without compression, so an image lies in them as it is. To read a
row group for one image would cost 64 MB. What is read is checked: an image's id is its hash.
"""

import io
import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.digests import Lookup, digests
from infra.files import Files
from infra.integrity import attempt, read_manifest
from infra.library import root_of, vanished
from schemas.artifact import Artifact
from schemas.errors import StorageError
from tasks.images import BYTES, STEP, image_library

if TYPE_CHECKING:
    from PIL.Image import Image

READERS = 16
PLACES = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)


def places_of(samples: Artifact, image_ids: Sequence[str]) -> pa.Table:
    """Where each image's bytes lie, and its size in pixels (PLACES), by id; reads all shards once.

    Raises:
        StorageError: an image is in no shard of the snapshot's root; the snapshot is then taken
            out of use.
    """
    library = image_library(root_of(samples))
    if missing := library.missing(image_ids):
        raise vanished(samples, what=f"the bytes of {len(missing)} images are gone")
    if not image_ids:
        return PLACES.empty_table()
    found: dict[str, tuple[str, int, int]] = {}
    for number, positions in library.spread(image_ids).items():
        wanted = {image_ids[i] for i in positions}
        shard = library.shards[number].fingerprint
        for name, offset, size in _spans(library.folder(number) / BYTES):
            if name in wanted:
                found[name] = (shard, offset, size)
    facts = library.facts(image_ids)
    columns = zip(*(found[name] for name in image_ids), strict=True)
    ids = pa.array(image_ids)
    table = pa.table([ids, *map(pa.array, columns), facts["height"], facts["width"]], PLACES.names)
    return table.cast(PLACES).sort_by("image_id")


def _spans(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and bytes of every image in a shard's file.

    Raises:
        StorageError: an image does not lie in the file as it is.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lies:
        parquet, end = pq.ParquetFile(path), 0
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group)
            for name, value in zip(table["image_id"], table["bytes"], strict=True):
                data = value.as_py()
                # Behind the one before and its own length, or else behind a page's header.
                start = end + 4
                if lies[start : start + len(data)] != data:
                    start = lies.find(data, end)
                if start < 0:
                    raise StorageError(
                        f"image {name.as_py()} is not stored as it is in {path.name}, so it cannot "
                        'be read by itself: set cache = "always"'
                    )
                end = start + len(data)
                yield name.as_py(), start, len(data)


class Pictures:
    """The images of an artifact whose index is of PLACES, by id."""

    def __init__(self, artifact: Artifact, places: pa.Table) -> None:
        self.artifact = artifact
        self.places = places.combine_chunks()
        self._files = Files.at(root_of(artifact).root)
        self._rows = Lookup("int64", absent=-1)
        self._rows.add(digests(places["image_id"]), np.arange(places.num_rows))
        self._pool = ThreadPoolExecutor(READERS)
        self._shard = cache(self._shard_folder)

    def sizes(self, image_ids: Sequence[str]) -> list[tuple[int, int]]:
        """Height and width of each, in pixels."""
        told = self._told(image_ids)
        return list(zip(told["height"].to_pylist(), told["width"].to_pylist(), strict=True))

    def read(self, image_ids: Sequence[str]) -> "list[Image]":
        """The images, decoded (RGB), in the order asked.

        Raises:
            StorageError: an image is not there any more; the artifact is then taken out of use.
        """
        told = self._told(image_ids)
        return list(
            self._pool.map(self._one, *(told[name].to_pylist() for name in PLACES.names[:4]))
        )

    def _one(self, name: str, shard: str, offset: int, size: int) -> "Image":
        from PIL import Image

        data = self._files.read_part(f"{self._shard(shard)}/{BYTES}", offset, size)
        if data is None or sha256(data).hexdigest() != name:
            raise vanished(self.artifact, what=f"image {name} is not where it was")
        return Image.open(io.BytesIO(data)).convert("RGB")

    def _told(self, image_ids: Sequence[str]) -> pa.Table:
        rows = self._rows.find(digests(image_ids))
        if (lost := np.flatnonzero(rows < 0)).size:
            raise KeyError(image_ids[lost[0]])
        return self.places.take(rows)

    def _shard_folder(self, shard: str) -> str:
        manifest = read_manifest(self._files, f"{STEP}/{shard}")
        if manifest is None:
            raise vanished(self.artifact, what=f"the images of shard {shard} are gone")
        return attempt(manifest)
