"""An item's picture: its bytes, decoded strictly; two pictures are laid side by side."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from infra.places import read_below
from schemas.samples import RawReject
from tasks.benchmarks.data import LONGEST_IMAGE
from tasks.benchmarks.item import Item, Picture

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 50_000_000
TWO = 2


@dataclass(frozen=True)
class Shown:
    """What is shown with a question: a picture, its encoded bytes, their sha256; or nothing."""

    picture: "Image | None" = None
    data: bytes | None = None
    image_id: str | None = None


def shown(item: Item) -> Shown | RawReject:
    """The item's picture, or why it cannot be used: a reason code of the ingest's."""
    if len(item.images) > TWO:
        return RawReject(item.id, "several_images", f"{len(item.images)} images, at most {TWO}")
    found = []
    for one in item.images:
        data = _bytes(one)
        image = _decoded(data) if isinstance(data, bytes) else data
        if isinstance(image, str):
            return RawReject(item.id, image, one.name)
        found.append((data, image))
    if not found:
        return Shown()
    if len(found) == 1:
        data, picture = found[0]
    else:
        picture = _beside([image for _, image in found])
        data = _png(picture)
    return Shown(picture, data, sha256(data).hexdigest())


def _bytes(one: Picture) -> bytes | str:
    """The encoded bytes, or a reason."""
    if one.data is not None:
        return one.data
    try:
        data = read_below(one.folder, one.name, limit=LONGEST_IMAGE)
    except PermissionError:
        return "path_outside_folder"
    except (OSError, ValueError):
        return "image_missing"
    return data if len(data) <= LONGEST_IMAGE else "image_too_big"


def _decoded(data: bytes) -> "Image | str":
    """The image as RGB, or a reason."""
    from PIL import Image

    from tasks.decoder.strict import FAULTS, FORMATS

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                return "image_too_many_pixels"
            return image.convert("RGB")
    except Image.DecompressionBombError:
        return "image_too_many_pixels"
    except FAULTS:
        return "image_unreadable"


def _beside(images: "Sequence[Image]") -> "Image":
    """Left and right on black, as PSA-VLM's release shows the pairs of a record."""
    from PIL import Image

    canvas = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)))
    left = 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width
    return canvas


def _png(image: "Image") -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
