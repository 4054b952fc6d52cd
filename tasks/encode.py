"""Encode: every labelled image through the frozen vision tower, once for all ratios and epochs.

Features are one array `features.npy` [N, P, V] (bfloat16 as uint16) with `index.parquet` naming
the image of each row, in order of image id: readable by memory map at a fixed stride.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from infra.parts import parts, read_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EncodeConfig
from schemas.errors import DataError
from schemas.samples import ROWS
from tasks.base_model import FOLDER, libraries
from tasks.progress import progress

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
FEATURES, INDEX = "features.npy", "index.parquet"


def encode(
    config: EncodeConfig, labelled: Artifact, samples: Artifact, base: Artifact, *, store: Store
) -> Artifact:
    """Features of all images that labelled rows refer to (h_o, METHOD.md section 2).

    Raises:
        DataError: a row's image is not among the samples.
    """
    return store.artifact(
        "encode",
        VERSION,
        config=config,
        parents={"labelled": labelled, "base": base},
        inputs=libraries(),
        build=lambda folder: _encode(
            config, store.local(labelled), store.local(samples), store.local(base) / FOLDER, folder
        ),
    )


def _encode(
    config: EncodeConfig, labelled: Path, samples: Path, base: Path, folder: Path
) -> dict[str, int]:
    import numpy as np
    import pyarrow as pa
    import torch

    from model.backbone import Backbone

    wanted = _image_ids(labelled)
    backbone = Backbone.load(str(base))
    backbone.freeze()
    if torch.cuda.is_available():
        backbone.to("cuda")
    rows: np.ndarray | None = None
    place = {image_id: i for i, image_id in enumerate(wanted)}
    missing = set(wanted)
    with progress("encode", len(wanted)) as tick, torch.no_grad():
        for ids, images in _batches(samples / "images", place, config.batch):
            block = _as_stored(backbone.encode_images(images), config.dtype)
            if rows is None:
                shape = (len(wanted), *block.shape[1:])
                rows = np.lib.format.open_memmap(
                    folder / FEATURES, mode="w+", dtype=block.dtype, shape=shape
                )
            rows[[place[i] for i in ids]] = block
            missing.difference_update(ids)
            tick(len(wanted) - len(missing), "images")
    if missing:  # their rows would be zeros, which look like features
        raise DataError(
            f"{len(missing)} images of the labelled rows are not among the samples, such as "
            f"{min(missing)}: give the samples that these rows were validated from"
        )
    if rows is None:
        np.save(folder / FEATURES, np.zeros((0, 0, 0), dtype=np.float32))
    else:
        rows.flush()
    pq.write_table(pa.table({"image_id": wanted}), folder / INDEX)
    return {"images": len(wanted)}


def _image_ids(labelled: Path) -> list[str]:
    lists = read_parts(labelled / "rows", ROWS, columns=["image_ids"])["image_ids"]
    return sorted({image_id for ids in lists.to_pylist() for image_id in ids})


def _batches(
    images: Path, wanted: dict[str, int], size: int
) -> Iterator[tuple[list[str], list[Any]]]:
    """Decoded images (PIL, RGB) in batches; only those that are wanted."""
    import io

    from PIL import Image

    files = (pq.ParquetFile(part) for part in parts(images))
    batches = (b for f in files for b in f.iter_batches(size, columns=["image_id", "bytes"]))
    for batch in batches:
        ids, decoded = [], []
        for image_id, data in zip(batch["image_id"], batch["bytes"], strict=True):
            if image_id.as_py() in wanted:
                ids.append(image_id.as_py())
                decoded.append(Image.open(io.BytesIO(data.as_py())).convert("RGB"))
        if ids:
            yield ids, decoded


def _as_stored(features: Any, dtype: str) -> "np.ndarray":
    import torch

    kept = features.to(getattr(torch, dtype)).cpu()
    return kept.view(torch.uint16).numpy() if dtype == "bfloat16" else kept.numpy()


class FeatureCache:
    """The features of an encode artifact by image id, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self.rows = np.load(folder / FEATURES, mmap_mode="r")
        ids = pq.read_table(folder / INDEX)["image_id"].to_pylist()
        self.place = {image_id: i for i, image_id in enumerate(ids)}

    def batch(self, image_ids: list[str]) -> Any:
        """A tensor [B, P, V] float32 of these images."""
        import torch

        block = torch.from_numpy(self.rows[[self.place[i] for i in image_ids]])
        return block.view(torch.bfloat16).float() if block.dtype == torch.uint16 else block
