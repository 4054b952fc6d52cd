"""Pictures that a small untrained encoder can tell apart: grey noise and a few coloured squares."""

import numpy as np
from PIL import Image

COLOURS = ["red", "blue", "lime", "yellow", "magenta", "cyan", "black", "white"]


def squares(number: int, *, colour: str, count: int) -> Image.Image:
    """64 x 64, RGB: noise and places are drawn by `number`."""
    draw = np.random.default_rng(number)
    image = Image.fromarray(draw.integers(90, 130, (64, 64, 3), dtype=np.uint8))
    for place in draw.choice(16, count, replace=False).tolist():
        left, top = place % 4 * 16 + 2, place // 4 * 16 + 2
        image.paste(colour, (left, top, left + 12, top + 12))
    return image
