"""Encode: every labelled image through the frozen vision tower, once for all that share a root.

An encode artifact names its images and their encoder (`index.parquet`); the features themselves lie
in the root's feature library: shards of one array `features.npy` [N, P, V] (bfloat16 as uint16),
readable by memory map at a fixed stride. New images of a later snapshot cost only themselves.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.library import INDEX, Library, root_of, vanished
from infra.parts import read_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EncodeConfig
from schemas.samples import ROWS
from tasks.base_model import FOLDER, libraries
from tasks.images import read_images
from tasks.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from model.backbone import Backbone

VERSION = 2
FEATURES = "features.npy"
SHARDS, SHARD_VERSION = "features", 1
IMAGES_PER_SHARD = 8_192
ENCODER = b"psavlm.encoder"


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
    import numpy as np
    import torch

    ids: list[str] = []
    blocks: list[np.ndarray] = []
    done = size = 0
    with progress("encode", total) as tick, torch.no_grad():
        for names, pictures in _batches(images, config.batch):
            # Always a full batch: an image's features must not depend on how many came along.
            full = pictures + pictures[-1:] * (config.batch - len(pictures))
            blocks.append(_as_stored(backbone.encode_images(full), config.dtype)[: len(names)])
            ids += names
            done += len(names)
            size += blocks[-1].nbytes
            tick(done, "images")
            if len(ids) >= IMAGES_PER_SHARD:
                _keep(library, ids, np.concatenate(blocks))
                ids, blocks = [], []
    if ids:
        _keep(library, ids, np.concatenate(blocks))
    return size


def _keep(library: Library, ids: list[str], rows: "np.ndarray") -> None:
    import numpy as np

    order = np.argsort(ids)
    index = pa.table({"image_id": [ids[i] for i in order]})
    library.add(index, lambda folder: np.save(folder / FEATURES, rows[order]))


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


def _as_stored(features: Any, dtype: str) -> "np.ndarray":
    import torch

    kept = features.to(getattr(torch, dtype)).cpu()
    return kept.view(torch.uint16).numpy() if dtype == "bfloat16" else kept.numpy()


class FeatureCache:
    """The features of an encode artifact by image id, memory-mapped.

    Raises:
        StorageError: features are in no shard of the artifact's root; it is then taken out of use,
            so that the next run encodes them again.
    """

    def __init__(self, artifact: Artifact) -> None:
        import numpy as np

        root = root_of(artifact)
        named = pq.read_table(root.local(artifact) / INDEX)
        encoder = named.schema.metadata[ENCODER].decode()
        self.library = Library(root, SHARDS, SHARD_VERSION, encoder=encoder)
        ids = named["image_id"].to_pylist()
        if missing := self.library.missing(ids):
            raise vanished(artifact, what=f"the features of {len(missing)} images are gone")
        self.arrays = {
            number: np.load(self.library.folder(number) / FEATURES, mmap_mode="r")
            for number in self.library.spread(ids)
        }

    def batch(self, image_ids: Sequence[str]) -> Any:
        """A tensor [B, P, V] float32 of these images."""
        import numpy as np
        import torch

        within = self.library.rows_within(image_ids)
        some = next(iter(self.arrays.values()))
        block = np.empty((len(image_ids), *some.shape[1:]), dtype=some.dtype)
        for number, positions in self.library.spread(image_ids).items():
            block[positions] = self.arrays[number][within[positions]]
        found = torch.from_numpy(block)
        return found.view(torch.bfloat16).float() if found.dtype == torch.uint16 else found
