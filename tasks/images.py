"""The image library of a root: encoded bytes by sha256, in shards that all snapshots share.

A shard's index is a table of the schema IMAGES; `images.parquet` beside it holds the bytes, in the
same order and in row groups small enough to be read whole.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.library import Library, root_of, vanished
from infra.store import Store
from schemas.artifact import Artifact

STEP, VERSION = "images", 1
BYTES = "images.parquet"
SCHEMA = pa.schema([("image_id", pa.string()), ("bytes", pa.binary())])
IMAGES_PER_GROUP = 256
BYTES_PER_GROUP = 64_000_000


def image_library(store: Store) -> Library:
    """The images that any snapshot of this root has."""
    return Library(store, STEP, VERSION)


def write_images(folder: Path, groups: Iterator[pa.Table]) -> None:
    """A shard's bytes into an empty folder; each table (SCHEMA) becomes a row group."""
    # Encoded images do not shrink, and statistics of bytes are bytes again.
    options = {"compression": "none", "use_dictionary": False, "write_statistics": ["image_id"]}
    with pq.ParquetWriter(folder / BYTES, SCHEMA, **options) as writer:
        for table in groups:
            writer.write_table(table, row_group_size=IMAGES_PER_GROUP)


def read_images(samples: Artifact, image_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(image id, encoded bytes) of these images of a snapshot, shard by shard; in no order asked.

    Raises:
        StorageError: an image is in no shard of the snapshot's root; the snapshot is then taken
            out of use, so that the next run reads its sources again.
    """
    library = image_library(root_of(samples))
    if missing := library.missing(image_ids):
        raise vanished(
            samples, what=f"the bytes of {len(missing)} images are gone, such as {missing[0]}"
        )
    for number, positions in library.spread(image_ids).items():
        wanted = pa.array([image_ids[i] for i in positions])
        file = pq.ParquetFile(library.folder(number) / BYTES)
        for group in range(file.num_row_groups):
            names = file.read_row_group(group, columns=["image_id"])["image_id"]
            here = pc.is_in(names, value_set=wanted)
            if not pc.any(here).as_py():
                continue
            table = file.read_row_group(group).filter(here)
            for name, data in zip(table["image_id"], table["bytes"], strict=True):
                yield name.as_py(), data.as_py()
