"""What a worker of a Ray cluster does with a block of images."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from infra.digests import digests, within
from schemas.config import IngestConfig
from schemas.samples import IMAGES, ImageRef
from tasks.credentials import use_credentials
from tasks.ingest.images import Loaded, Picture, Refusal, fetch, load

if TYPE_CHECKING:
    from ray import ObjectRef

IMAGES_PER_ANSWER = 8
ASKED = pa.schema([("path", pa.string()), ("data", pa.binary())])
ANSWERED = pa.schema(
    [*IMAGES, ("data", pa.binary()), ("reason", pa.string()), ("detail", pa.string())]
)


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
        StorageError: the bucket cannot be read from here.
    """
    import ray

    use_credentials()
    ids = ray.get(library)
    refs = [ImageRef(**row) for row in block.to_pylist()]
    for start in range(0, len(refs), IMAGES_PER_ANSWER):
        few = refs[start : start + IMAGES_PER_ANSWER]
        found = load(
            few,
            read=lambda ref: fetch(ref, folder=folder, config=config),
            knows=lambda image_id: bool(within(digests([image_id]), ids)[0]),
            max_pixels=config.max_image_pixels,
        )
        yield pa.Table.from_pylist([_told(found[ref]) for ref in few], ANSWERED)


def _told(found: Loaded) -> dict[str, Any]:
    return {"image_id": found} if isinstance(found, str) else vars(found)


def from_answer(row: dict[str, Any]) -> Loaded:
    """What a row of ANSWERED says."""
    if row["reason"]:
        return Refusal(row["reason"], row["detail"])
    if row["data"] is None:
        return row["image_id"]
    return Picture(**{name: row[name] for name in (*IMAGES.names, "data")})
