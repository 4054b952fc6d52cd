"""Encode: every labelled image through the frozen vision tower, once for all that share a root.

An encode artifact names its images and their encoder (`index.parquet`); the features themselves lie
in the root's feature library (shards.py). New images of a later snapshot cost only themselves.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.library import INDEX, Library
from infra.parts import read_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EncodeConfig
from schemas.samples import ROWS
from tasks.base_model import FOLDER, libraries
from tasks.encode.shards import ENCODER, SHARD_VERSION, SHARDS, Shards
from tasks.images import read_images
from tasks.progress import progress

if TYPE_CHECKING:
    import torch

    from model.backbone import Backbone
    from model.features import ImagePatches

VERSION = 2


def encode(
    config: EncodeConfig, labelled: Artifact, samples: Artifact, base: Artifact, *, store: Store
) -> Artifact:
    """Features of all images that labelled rows refer to (h_o, METHOD.md section 2).

    Counts: images, how many of these had to be encoded, and the bytes of their features.

    Raises:
        StorageError: a row's image is not in the root's library any more.
    """

    def build(folder: Path) -> dict[str, int]:
        wanted = _image_ids(store.local(labelled))
        encoder = store.fingerprint(
            SHARDS, SHARD_VERSION, config=config, parents={"base": base}, inputs=libraries()
        )
        library = Library(store, SHARDS, SHARD_VERSION, encoder=encoder)
        missing, new_bytes = library.missing(wanted), 0
        if missing:
            backbone = _load(store.local(base) / FOLDER)
            new_bytes = _encode(
                config, read_images(samples, missing), backbone, library, total=len(missing)
            )
        table = pa.table({"image_id": wanted}).replace_schema_metadata({ENCODER: encoder})
        pq.write_table(table, folder / INDEX)
        return {"images": len(wanted), "encoded": len(missing), "new_bytes": new_bytes}

    return store.artifact(
        "encode",
        VERSION,
        config=config,
        parents={"labelled": labelled, "base": base},
        inputs=libraries(),
        build=build,
    )


def _load(base: Path) -> "Backbone":
    import torch

    from model.backbone import Backbone

    backbone = Backbone.load(str(base))
    backbone.freeze()
    if torch.cuda.is_available():
        backbone.to("cuda")
    return backbone


def _encode(
    config: EncodeConfig,
    images: Iterator[tuple[str, bytes]],
    backbone: "Backbone",
    library: Library,
    *,
    total: int,
) -> int:
    """Batch by batch into shards; a shard that is written is never encoded again. Bytes made."""
    import torch

    shards = Shards(library, config.dtype)
    done = 0
    with progress("encode", total) as tick, torch.no_grad():
        for names, pictures in _batches(images, config.batch):
            shards.add(names, _features(backbone, pictures, config.batch))
            done += len(names)
            tick(done, "images")
    shards.flush()
    return shards.bytes


def _features(
    backbone: "Backbone", pictures: list[Any], batch: int
) -> "torch.Tensor | list[ImagePatches]":
    """h_o of a batch that may not be full."""
    if backbone.patches is None:
        return list(backbone.encode_images(pictures))
    # Always a full batch: an image's features must not depend on how many came along.
    full = pictures + pictures[-1:] * (batch - len(pictures))
    return backbone.encode_images(full)[: len(pictures)]


def _image_ids(labelled: Path) -> list[str]:
    lists = read_parts(labelled / "rows", ROWS, columns=["image_ids"])["image_ids"]
    return sorted({image_id for ids in lists.to_pylist() for image_id in ids})


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
