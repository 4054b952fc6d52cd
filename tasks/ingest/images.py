"""An image reference -> bytes that were decoded to the last pixel, or the reason why not."""

import io
import struct
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Lock

from PIL import Image

from infra.places import read_below
from schemas.config import IngestConfig
from schemas.errors import ConfigError
from schemas.samples import ImageRef
from tasks.ingest.phash import perceptual_hash

# Pillow knows some 40 formats; the others are not images of data sets but ways in.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# Progressive JPEGs have about ten scans. Each costs a pass over all pixels, and ten bytes.
JPEG, SCAN, MOST_SCANS = b"\xff\xd8", b"\xff\xda", 100
# An image of the most pixels that are allowed takes some hundred MB while it is decoded.
MANY_PIXELS = 8_000_000
ONE_AT_A_TIME = Lock()
# What Pillow's parsers raise on bad bytes: mostly OSError, the others now and then.
FAULTS = (OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError, IndexError)


@dataclass(frozen=True)
class Picture:
    """A decodable image: `image_id` is the sha256 of its encoded bytes; sizes in pixels."""

    image_id: str
    data: bytes
    format: str
    width: int
    height: int
    phash: str
    phash_quality: int


@dataclass(frozen=True)
class Refusal:
    """Why an image cannot be used."""

    reason: str
    detail: str


def fetch(ref: ImageRef, *, folder: str, config: IngestConfig) -> bytes | Refusal:
    """The encoded bytes, read within the byte limit."""
    data = ref.data if ref.data is not None else _fetch(ref.path or "", folder, config)
    if isinstance(data, bytes) and len(data) > config.max_image_bytes:
        return Refusal("image_too_big", f"more than {config.max_image_bytes} bytes")
    return data


def _fetch(path: str, folder: str, config: IngestConfig) -> bytes | Refusal:
    if path.lower().startswith(("http://", "https://", "ftp://")):
        return Refusal("remote_image", path)
    if not folder:
        raise ConfigError(
            f"image {path!r} is named by a path, and its source names no folder; add "
            "images=<folder> to the source"
        )
    try:
        return read_below(folder, path, limit=config.max_image_bytes)
    except PermissionError as error:
        # The system's own "may not be read" has a number, ours has none.
        outside = error.errno is None
        return Refusal("path_outside_folder" if outside else "image_unreadable", path)
    except OSError:
        return Refusal("image_missing", path)


def decode(image_id: str, data: bytes, *, max_pixels: int) -> Picture | Refusal:
    """Check the header's pixels, then decode strictly."""
    scans = data.count(SCAN) if data.startswith(JPEG) else 0
    if scans > MOST_SCANS:
        return Refusal(
            "image_unreadable", f"a JPEG of {scans} scans, at most {MOST_SCANS} are read"
        )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                return Refusal("image_too_many_pixels", f"{width} x {height}, limit {max_pixels}")
            with ONE_AT_A_TIME if width * height > MANY_PIXELS else nullcontext():
                image.load()
                phash, quality = perceptual_hash(image)
            kind = str(image.format)
    except Image.DecompressionBombError:
        return Refusal("image_too_many_pixels", "the header announces a decompression bomb")
    except FAULTS as error:
        # Pillow's "cannot identify" names an object's address, which differs from run to run.
        detail = str(error).partition(" <_io")[0]
        return Refusal("image_unreadable", f"{type(error).__name__}: {detail}")
    return Picture(image_id, data, kind, width, height, phash, quality)
