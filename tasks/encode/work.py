"""Images into the feature library, batch by batch."""

import io
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from infra.ahead import ahead
from infra.library import Library
from schemas.config import EncodeConfig
from tasks.encode.shards import Shards
from tasks.encode.sight import seen

if TYPE_CHECKING:
    from model.backbone import Backbone

Raw = tuple[list[str], list[bytes]]


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
    # Decoded beside the encoder: it waits for less.
    for names, pictures in ahead(_batches(images, config.batch), _decoded):
        shards.add(names, seen(backbone, pictures, config.batch))
        done += len(names)
        tick(done)
    shards.flush()
    return shards.bytes


def _batches(images: Iterator[tuple[str, bytes]], size: int) -> Iterator[Raw]:
    """Ids and encoded bytes in batches."""
    while batch := list(islice(images, size)):
        yield [name for name, _ in batch], [data for _, data in batch]


def _decoded(batch: Raw) -> tuple[list[str], list[Any]]:
    """Ids and images (PIL, RGB)."""
    from PIL import Image

    names, encoded = batch
    return names, [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded]
