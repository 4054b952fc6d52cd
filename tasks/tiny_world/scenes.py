"""What is on a picture, before it is drawn: shapes, and the glyphs that make it risky.

A scene lies on a grid of 4 x 4 cells. One to three coloured shapes are its benign content. A risky
scene has one to three glyphs of one family besides: the family is the risk type, the number the
level. A near miss has altered glyphs and is benign. Nothing harmful is drawn or written.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

GRID = 4
SHAPES = ("circle", "square", "triangle", "diamond")
COLOURS = ("red", "green", "blue", "yellow", "purple")
FAMILIES = ("bolt", "ring", "fork", "gate", "plus", "hook")
RISK_OF = dict(
    zip(
        FAMILIES,
        ("politics", "illegal", "insults", "fairness", "privacy", "misleading"),
        strict=True,
    )
)
HELD_OUT_IN = 5

Form = Literal["glyph", "near_miss", "word"]


@dataclass(frozen=True)
class Thing:
    """One drawn object: a coloured shape, or a glyph, altered glyph or written word of a family."""

    cell: int
    shape: int | None = None
    colour: int | None = None
    family: int | None = None
    form: Form | None = None


@dataclass(frozen=True)
class Scene:
    """The contents of one image; `level` counts true glyphs or words, 0 for a benign scene."""

    shapes: tuple[Thing, ...]
    glyphs: tuple[Thing, ...]

    @property
    def risky(self) -> bool:
        """Whether a true glyph or word is on the picture."""
        return any(g.form != "near_miss" for g in self.glyphs)

    @property
    def near_miss(self) -> bool:
        """Benign, but with altered glyphs."""
        return bool(self.glyphs) and not self.risky

    @property
    def family(self) -> str | None:
        """Name of the risky family, or None for a benign scene."""
        risky = [g.family for g in self.glyphs if g.form != "near_miss" and g.family is not None]
        return FAMILIES[risky[0]] if risky else None

    @property
    def level(self) -> int:
        """0 for benign, else the number of true glyphs."""
        return sum(g.form != "near_miss" for g in self.glyphs)


@dataclass(frozen=True)
class Kind:
    """What sort of scene to make: how many glyphs of which form, and whether it is held out."""

    form: Form | None = None
    held_out: bool = False
    stray_near_miss: float = 0.0


def _held_out(key: object) -> bool:
    return zlib.crc32(repr(key).encode()) % HELD_OUT_IN == 0


def make_scene(rng: np.random.Generator, kind: Kind) -> Scene:
    """A scene of this kind, on its side of the held-out line.

    Which glyph positions and which shape combinations belong to evaluation is decided by a hash
    of the positions or the combination, so that no training scene can ever share one.
    """
    while True:
        scene = _draw(rng, kind)
        combination = tuple(sorted((t.shape, t.colour) for t in scene.shapes))
        keys: list[object] = [combination]
        if scene.glyphs:
            keys.append(tuple(sorted(g.cell for g in scene.glyphs)))
        if all(_held_out(key) == kind.held_out for key in keys):
            return scene


def _draw(rng: np.random.Generator, kind: Kind) -> Scene:
    free = list(rng.permutation(GRID * GRID))
    glyphs: list[Thing] = []
    if kind.form is not None:
        family = int(rng.integers(len(FAMILIES)))
        for _ in range(int(rng.integers(1, 4))):
            cell = _word_cell(free) if kind.form == "word" else free.pop()
            glyphs.append(Thing(cell=int(cell), family=family, form=kind.form))
    if rng.random() < kind.stray_near_miss and kind.form != "near_miss":
        stray = int(rng.integers(len(FAMILIES)))
        glyphs.append(Thing(cell=int(free.pop()), family=stray, form="near_miss"))
    shapes = [
        Thing(
            cell=int(free.pop()),
            shape=int(rng.integers(len(SHAPES))),
            colour=int(rng.integers(len(COLOURS))),
        )
        for _ in range(int(rng.integers(1, 4)))
    ]
    in_reading_order = tuple(sorted(shapes, key=lambda t: t.cell))
    return Scene(in_reading_order, tuple(sorted(glyphs, key=lambda t: t.cell)))


def _word_cell(free: list[int]) -> int:
    """Take two neighbouring free cells of a row for a written word; the left one is its place."""
    for cell in free:
        if cell % GRID < GRID - 1 and cell + 1 in free:
            free.remove(cell)
            free.remove(cell + 1)
            return cell
    return free.pop()
