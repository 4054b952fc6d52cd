"""What a worker of a Ray cluster does with a block of images."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from infra.digests import digests, within
from infra.places import is_remote
from schemas.config import IngestConfig
from schemas.errors import StorageError
from schemas.samples import IMAGES, ImageRef
from tasks.credentials import use_credentials
from tasks.ingest.images import Loaded, Picture, Refusal, fetch, load

if TYPE_CHECKING:
    from ray import ObjectRef

# An answer ends with whichever comes first: a worker holds one of them beside its block.
IMAGES_PER_ANSWER, BYTES_PER_ANSWER = 8, 8_000_000
ASKED = pa.schema([("path", pa.string()), ("data", pa.binary())])
ANSWERED = pa.schema(
    [*IMAGES, ("data", pa.binary()), ("reason", pa.string()), ("detail", pa.string())]
)
Fetched = list[tuple[ImageRef, bytes | Refusal]]


def decoded_block(
    block: pa.Table, *, folder: str, config: IngestConfig, library: "ObjectRef[np.ndarray]"
) -> Iterator[pa.Table]:
    """Fetch, hash and decode the images of a block of ASKED; ANSWERED, a few rows at a time.

    Args:
        block: the images, by path or by bytes.
        folder: where paths lie.
        config: the limits.
        library: digests [N] S32, sorted, of the images that need not be decoded.

    Raises:
        StorageError: the folder or bucket cannot be read from here.
    """
    if folder and not is_remote(folder) and not os.path.isdir(folder):
        raise unseen(folder)
    import ray

    use_credentials()
    ids = ray.get(library)
    for few in _few(block, folder, config):
        found = load(
            [ref for ref, _ in few],
            read=dict(few).__getitem__,
            knows=lambda image_id: bool(within(digests([image_id]), ids)[0]),
            max_pixels=config.max_image_pixels,
        )
        yield pa.Table.from_pylist([_told(found[ref]) for ref, _ in few], ANSWERED)


def _few(block: pa.Table, folder: str, config: IngestConfig) -> Iterator[Fetched]:
    """The block's images with their bytes, as many as an answer should hold."""
    few: Fetched = []
    size = 0
    for row in block.to_pylist():
        ref = ImageRef(**row)
        data = fetch(ref, folder=folder, config=config)
        few.append((ref, data))
        size += len(data) if isinstance(data, bytes) else 0
        if len(few) == IMAGES_PER_ANSWER or size >= BYTES_PER_ANSWER:
            yield few
            few, size = [], 0
    if few:
        yield few


def unseen(folder: str, name: str = "") -> StorageError:
    """What to do where a worker has not the files that the driver has."""
    what = f"the image {name!r} of the folder {folder!r}" if name else f"the folder {folder!r}"
    return StorageError(
        f"a worker of the Ray cluster does not see {what}, which this machine sees: put the images "
        "where all nodes mount them under the same path, or into a bucket (images=s3://...), or "
        "leave out the cluster"
    )


def _told(found: Loaded) -> dict[str, Any]:
    return {"image_id": found} if isinstance(found, str) else vars(found)


def from_answer(row: dict[str, Any]) -> Loaded:
    """What a row of ANSWERED says."""
    if row["reason"]:
        return Refusal(row["reason"], row["detail"])
    if row["data"] is None:
        return row["image_id"]
    return Picture(**{name: row[name] for name in (*IMAGES.names, "data")})
