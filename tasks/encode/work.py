"""Images into the feature library, batch by batch."""

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from infra.library import Library
from schemas.config import EncodeConfig
from tasks.encode.shards import Shards
from tasks.encode.sight import seen

if TYPE_CHECKING:
    from model.backbone import Backbone


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
    for names, pictures in _batches(images, config.batch):
        shards.add(names, seen(backbone, pictures, config.batch))
        done += len(names)
        tick(done)
    shards.flush()
    return shards.bytes


def _batches(
    images: Iterator[tuple[str, bytes]], size: int
) -> Iterator[tuple[list[str], list[Any]]]:
    """Decoded images (PIL, RGB) in batches."""
    from PIL import Image

    ids: list[str] = []
    decoded: list[Any] = []
    for image_id, data in images:
        ids.append(image_id)
        decoded.append(Image.open(io.BytesIO(data)).convert("RGB"))
        if len(ids) == size:
            yield ids, decoded
            ids, decoded = [], []
    if ids:
        yield ids, decoded
