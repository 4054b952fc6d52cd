"""Images and features in a root's libraries, for tests that make a snapshot by hand."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from infra.library import INDEX, Library
from infra.store import Store
from schemas.artifact import Artifact
from schemas.samples import IMAGES
from tasks.encode import ENCODER, FEATURES, SHARD_VERSION, SHARDS
from tasks.images import SCHEMA, image_library, write_images
from tasks.images import STEP as IMAGES_STEP

# What lies in a root beside its steps: whoever copies a root by steps takes these along.
LIBRARIES = (IMAGES_STEP, SHARDS)


def keep_images(store: Store, encoded: dict[str, bytes]) -> pa.Table:
    """Put encoded images by id into the library; what is known of them, by id (IMAGES)."""
    facts = []
    for name in sorted(encoded):
        image = Image.open(io.BytesIO(encoded[name]))
        size = {"width": image.width, "height": image.height}
        facts.append({"image_id": name, "format": image.format, **size, "phash": "0" * 64,
                      "phash_quality": 0})  # fmt: skip
    index = pa.Table.from_pylist(facts, IMAGES)
    data = pa.array([encoded[name] for name in sorted(encoded)], pa.binary())
    table = pa.table([index["image_id"].combine_chunks(), data], schema=SCHEMA)
    image_library(store).add(index, lambda folder: write_images(folder, iter([table])))
    return index


def keep_features(store: Store, ids: list[str], rows: np.ndarray) -> Artifact:
    """An encode artifact of these images (ids in order) with these features [N, P, V]."""
    library = Library(store, SHARDS, SHARD_VERSION, encoder="hand")
    index = pa.table({"image_id": ids})
    library.add(index, lambda folder: np.save(folder / FEATURES, rows))

    def build(folder: Path) -> dict[str, int]:
        pq.write_table(index.replace_schema_metadata({ENCODER: "hand"}), folder / INDEX)
        return {"images": len(ids)}

    return store.artifact("encode", 1, config={}, build=build)
