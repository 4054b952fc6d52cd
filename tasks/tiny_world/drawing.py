"""Scenes to pixels: 64 x 64 RGB, cells of 16 pixels, in two styles and two difficulties."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.tiny_world.scenes import FAMILIES, GRID, SHAPES, Scene, Thing

SIZE = 64
CELL = SIZE // GRID
OVERSAMPLE = 8
RGB = np.array(
    [(214, 48, 49), (39, 174, 96), (41, 98, 214), (241, 196, 15), (142, 68, 173)], dtype=np.float32
)
# Strokes of each family on the unit square, and the stroke that a near miss lacks.
STROKES = {
    "bolt": [((0.2, 0.1), (0.8, 0.1)), ((0.8, 0.1), (0.2, 0.9)), ((0.2, 0.9), (0.8, 0.9))],
    "ring": [],
    "fork": [((0.5, 0.5), (0.5, 0.95)), ((0.1, 0.05), (0.5, 0.5)), ((0.9, 0.05), (0.5, 0.5))],
    "gate": [((0.15, 0.05), (0.15, 0.95)), ((0.15, 0.5), (0.85, 0.5)),
             ((0.85, 0.05), (0.85, 0.95))],
    "plus": [((0.5, 0.05), (0.5, 0.95)), ((0.05, 0.5), (0.95, 0.5))],
    "hook": [((0.3, 0.05), (0.3, 0.9)), ((0.3, 0.9), (0.9, 0.9)), ((0.9, 0.9), (0.9, 0.55))],
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a scene is drawn: the difficulty's spread of glyph size, grey, noise and overlap."""

    glyph_size: tuple[float, float] = (0.8, 0.95)
    grey: tuple[int, int] = (20, 30)
    noise: float = 0.0
    overlap: float = 0.0
    inverted: bool = False


EASY = Look()
HARD = Look(glyph_size=(0.6, 0.9), grey=(20, 70), noise=6.0, overlap=0.05)


@lru_cache(maxsize=1024)
def _shape_mask(shape: int, pixels: int) -> np.ndarray:
    n = pixels * OVERSAMPLE
    image = Image.new("L", (n, n))
    draw = ImageDraw.Draw(image)
    corners = {
        "square": [(0, 0), (n, 0), (n, n), (0, n)],
        "triangle": [(n / 2, 0), (n, n), (0, n)],
        "diamond": [(n / 2, 0), (n, n / 2), (n / 2, n), (0, n / 2)],
    }
    if SHAPES[shape] == "circle":
        draw.ellipse((0, 0, n - 1, n - 1), fill=255)
    else:
        draw.polygon(corners[SHAPES[shape]], fill=255)
    return _shrink(image, pixels, pixels)


@lru_cache(maxsize=1024)
def _glyph_mask(family: int, pixels: int, *, altered: bool) -> np.ndarray:
    n = pixels * OVERSAMPLE
    image = Image.new("L", (n, n))
    draw = ImageDraw.Draw(image)
    width = max(2, round(2.2 * OVERSAMPLE))
    if FAMILIES[family] == "ring":
        # An altered ring is open at the right.
        start, end = (60, 300) if altered else (0, 360)
        edge = width // 2
        draw.arc((edge, edge, n - edge, n - edge), start, end, fill=255, width=width)
    strokes = STROKES[FAMILIES[family]]
    for a, b in strokes[:-1] if altered else strokes:
        draw.line((a[0] * n, a[1] * n, b[0] * n, b[1] * n), fill=255, width=width)
    return _shrink(image, pixels, pixels)


@lru_cache(maxsize=64)
def _word_mask(family: int) -> np.ndarray:
    image = Image.new("L", (2 * CELL, CELL))
    draw = ImageDraw.Draw(image)
    draw.text((1, 1), FAMILIES[family].upper(), fill=255, font=_font())
    return np.asarray(image, dtype=np.float32) / 255


@lru_cache(maxsize=1)
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=11)


def _shrink(image: Image.Image, width: int, height: int) -> np.ndarray:
    small = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


def draw_scene(scene: Scene, rng: np.random.Generator, look: Look) -> np.ndarray:
    """Pixels [64, 64, 3] uint8 of a scene; `rng` gives jitter, sizes, greys and noise."""
    paper = rng.uniform(30, 50) if look.inverted else rng.uniform(225, 250)
    canvas = np.full((SIZE, SIZE, 3), paper, dtype=np.float32)
    for thing in scene.shapes:
        pixels = int(rng.integers(10, 14))
        assert thing.shape is not None and thing.colour is not None
        _paint(canvas, thing, _shape_mask(thing.shape, pixels), RGB[thing.colour], rng, look)
    for thing in scene.glyphs:
        grey = rng.uniform(*look.grey)
        ink = np.full(3, 255 - grey if look.inverted else grey, dtype=np.float32)
        _paint(canvas, thing, _mask_of(thing, rng, look), ink, rng, look)
    if look.noise:
        canvas += rng.normal(0, look.noise, canvas.shape)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _mask_of(thing: Thing, rng: np.random.Generator, look: Look) -> np.ndarray:
    assert thing.family is not None
    if thing.form == "word":
        return _word_mask(thing.family)
    pixels = math.floor(rng.uniform(*look.glyph_size) * CELL)
    return _glyph_mask(thing.family, pixels, altered=thing.form == "near_miss")


def _paint(
    canvas: np.ndarray,
    thing: Thing,
    mask: np.ndarray,
    ink: np.ndarray,
    rng: np.random.Generator,
    look: Look,
) -> None:
    height, width = mask.shape
    row, column = divmod(thing.cell, GRID)
    room = max(CELL - height, 0), max(CELL - width, 0)
    y = row * CELL + int(rng.integers(room[0] + 1))
    x = column * CELL + int(rng.integers(room[1] + 1))
    if rng.random() < look.overlap:
        y, x = y + int(rng.integers(-4, 5)), x + int(rng.integers(-4, 5))
    y, x = min(max(y, 0), SIZE - height), min(max(x, 0), SIZE - width)
    patch = canvas[y : y + height, x : x + width]
    patch += mask[..., None] * (ink - patch)
