"""Images of a snapshot for people: fetched by id, enlarged or blurred, as PNG.

A blurred image is averaged over a few cells before it is written: the pixels themselves are gone.
"""

import io
from collections.abc import Collection
from typing import TYPE_CHECKING

from schemas.artifact import Artifact
from tasks.images import read_images

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

CELLS = 6
SIDE = 192


def find_images(samples: Artifact, image_ids: Collection[str]) -> dict[str, "Image"]:
    """The images with these ids, RGB; StorageError if one is gone."""
    from PIL import Image

    return {
        name: Image.open(io.BytesIO(data)).convert("RGB")
        for name, data in read_images(samples, sorted(set(image_ids)))
    }


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
