"""Images into the feature library, batch by batch."""

import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from infra.ahead import ahead
from infra.library import Library
from schemas.config import EncodeConfig
from tasks.encode.shards import Shards
from tasks.encode.sight import prepared, seen_prepared

if TYPE_CHECKING:
    from model.backbone import Backbone

Raw = tuple[list[str], list[bytes]]
# Threads that decode, resize and normalise, a batch each: one does about 100 images a second. Each
# holds a batch's pixels, 173 MB for 128 images of 336 x 336.
MOST_THREADS = 16


def encode_all(
    config: EncodeConfig,
    images: Iterator[tuple[str, bytes]],
    backbone: "Backbone",
    library: Library,
    *,
    tick: Callable[[int], None],
) -> int:
    """Bytes of features made; a shard that is written is never encoded again.

    Args:
        config: how.
        images: id and encoded bytes of each.
        backbone: the encoder.
        library: where the features go.
        tick: told how many images are done.
    """
    shards, done = Shards(library, config.dtype), 0
    read = partial(_prepared, backbone=backbone, batch=config.batch)
    threads = min(max(2, os.cpu_count() or 2), MOST_THREADS)
    # Made ready beside the encoder, which would wait for it otherwise.
    for names, ready in ahead(_batches(images, config.batch), read, parts=threads):
        shards.add(names, seen_prepared(backbone, ready, len(names)))
        done += len(names)
        tick(done)
    shards.flush()
    return shards.bytes


def _batches(images: Iterator[tuple[str, bytes]], size: int) -> Iterator[Raw]:
    """Ids and encoded bytes in batches."""
    while batch := list(islice(images, size)):
        yield [name for name, _ in batch], [data for _, data in batch]


def _prepared(raw: Raw, *, backbone: "Backbone", batch: int) -> tuple[list[str], Any]:
    """Ids, and their images on the way to the encoder."""
    from PIL import Image

    names, encoded = raw
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded]
    return names, prepared(backbone, pictures, batch)
