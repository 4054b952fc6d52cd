"""Images of a snapshot for people: fetched by id, enlarged or blurred, as PNG.

A blurred image is averaged over a few cells before it is written: the pixels themselves are gone.
"""

import io
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.parts import parts

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

CELLS = 6
SIDE = 192


def find_images(samples: Path, image_ids: Collection[str]) -> dict[str, "Image"]:
    """The images with these ids, RGB; only row groups that hold one of them are read whole."""
    from PIL import Image

    wanted, found = set(image_ids), {}
    for path in parts(samples / "images"):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            names = file.read_row_group(group, columns=["image_id"])["image_id"]
            if wanted.isdisjoint(names.to_pylist()):
                continue
            table = file.read_row_group(group, columns=["image_id", "bytes"])
            hits = table.filter(pc.is_in(table["image_id"], value_set=pa.array(sorted(wanted))))
            for row in hits.to_pylist():
                found[row["image_id"]] = Image.open(io.BytesIO(row["bytes"])).convert("RGB")
            wanted -= found.keys()
            if not wanted:
                return found
    return found


def thumbnail(image: "Image", *, blur: bool) -> bytes:
    """A picture of SIDE pixels on its longer side, as PNG."""
    return png(fitted(blurred(image) if blur else image))


def fitted(image: "Image") -> "Image":
    """The image with SIDE pixels on its longer side; a small one keeps its pixels' edges."""
    from PIL import Image

    scale = SIDE / max(image.size)
    size = tuple(max(1, round(edge * scale)) for edge in image.size)
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def blurred(image: "Image") -> "Image":
    """The image as means over CELLS x CELLS cells, in its own size."""
    from PIL import Image

    cells = image.resize((CELLS, CELLS), Image.Resampling.BOX)
    return cells.resize(image.size, Image.Resampling.BICUBIC)


def from_array(pixels: "np.ndarray") -> "Image":
    """An image from [H, W, 3] in 0..1."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.round(255 * pixels).astype(np.uint8))


def png(image: "Image") -> bytes:
    """The image's PNG bytes."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
