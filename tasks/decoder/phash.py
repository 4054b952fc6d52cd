"""Perceptual hashes (PDQ): the same picture, resized or compressed anew, keeps most of its bits."""

import numpy as np
import pdqhash
from PIL.Image import Image, Resampling

# PDQ's own rule: the hash of a flat or blurred picture says nothing.
LEAST_QUALITY = 50
# The side of PDQ's own grid. All are brought to it first: its filter depends on the size (seen: 12
# bits instead of 0 between 512 and 336 pixels), and costs ten times more on a photo.
SIDE = 64


def perceptual_hash(image: Image) -> tuple[str, int]:
    """PDQ's 256 bits in hexadecimal, and its quality 0..100; the image is not changed."""
    colours = image if image.mode == "RGB" else image.convert("RGB")
    small = colours.resize((SIDE, SIDE), Resampling.BILINEAR, reducing_gap=2.0)
    bits, quality = pdqhash.compute(np.asarray(small))
    return np.packbits(bits).tobytes().hex(), int(quality)
