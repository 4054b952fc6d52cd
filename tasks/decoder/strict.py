"""Encoded bytes -> what is known of an image that was decoded to the last pixel, or why not."""

import io
import re
import struct
import zlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from PIL import Image

from tasks.decoder.phash import perceptual_hash

# Pillow knows some 40 formats; the others are not images of data sets but ways in.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# Progressive JPEGs have about ten scans. Each costs a pass over all pixels, and ten bytes.
JPEG, MOST_SCANS = b"\xff\xd8", 100
# A scan's marker, then its length, 6 + 2n, and its n components: not any two bytes that look alike.
SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
# An image of more pixels takes some hundred MB while it is decoded: it waits for its turn.
MANY_PIXELS = 16_000_000
# What Pillow's parsers raise on bad bytes: mostly OSError, the others now and then.
FAULTS = (OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError, IndexError)


# Characters that are told of a fault.
LONGEST = 1_000


@dataclass(frozen=True)
class Facts:
    """What is known of a decodable image; sizes in pixels, the hash in hexadecimal."""

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


def decode(data: bytes, *, max_pixels: int, turn: AbstractContextManager[None]) -> Facts | Refusal:
    """Check the header's pixels, then decode strictly.

    Args:
        data: the encoded bytes.
        max_pixels: an image of more is refused by its header.
        turn: held while an image of many pixels is in memory.

    Raises:
        MemoryError: it needs more than the process may have.
    """
    scans = sum(1 for _ in SCAN.finditer(data)) if data.startswith(JPEG) else 0
    if scans > MOST_SCANS:
        return Refusal(
            "image_unreadable", f"a JPEG of {scans} scans, at most {MOST_SCANS} are read"
        )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                return Refusal("image_too_many_pixels", f"{width} x {height}, limit {max_pixels}")
            with turn if width * height > MANY_PIXELS else nullcontext():
                image.load()
                phash, quality = perceptual_hash(image)
            return Facts(str(image.format), width, height, phash, quality)
    except Image.DecompressionBombError:
        return Refusal("image_too_many_pixels", "the header announces a decompression bomb")
    except FAULTS as error:
        # Pillow's "cannot identify" names an object's address, which differs from run to run.
        detail = str(error).partition(" <_io")[0]
        return Refusal("image_unreadable", f"{type(error).__name__}: {detail}"[:LONGEST])
