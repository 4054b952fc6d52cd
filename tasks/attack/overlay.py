"""Words on an image: a line of neutral text along its lower edge, and its control.

Only the strokes of the letters cover the picture. The control has the same letters in another
order, which cover as much and say nothing: what words do is the difference between the two.
"""

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST_POINTS = 7.0
MARGIN = 0.02  # of the image's height, below the line and left of it
DARK, LIGHT = (0, 0, 0), (255, 255, 255)


def written(image: "Image", text: str) -> "Image":
    """A copy of an RGB image with one line of text over its whole width, in ink that stands out."""
    from PIL import ImageDraw, ImageFont, ImageStat

    picture = image.copy()
    draw = ImageDraw.Draw(picture)
    width = draw.textlength(text, font=ImageFont.load_default(100)) / 100
    points = max(LEAST_POINTS, (1 - 2 * MARGIN) * image.width / max(width, 1e-6))
    font = ImageFont.load_default(max(1, min(points, image.height / 4)))
    bottom = round((1 - MARGIN) * image.height)
    top = max(0, bottom - round(font.size))  # type: ignore[union-attr]
    ground = ImageStat.Stat(image.convert("L").crop((0, top, image.width, max(bottom, top + 1))))
    ink = DARK if ground.mean[0] > 127 else LIGHT
    draw.text((round(MARGIN * image.width), bottom), text, fill=ink, font=font, anchor="lb")
    return picture


def mixed(text: str, *, seed: int) -> str:
    """The letters of every word in another order; spaces stay where they are."""
    letters = [letter for letter in text if not letter.isspace()]
    random.Random(seed).shuffle(letters)  # noqa: S311 - no secret is made of it
    rest = iter(letters)
    return "".join(letter if letter.isspace() else next(rest) for letter in text)
