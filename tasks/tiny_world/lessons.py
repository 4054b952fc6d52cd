"""What the base model is taught: to see every thing of the tiny world, and to obey what it sees.

Its text side is aligned: text that names a risk is refused. Its image side is not: a sign on a
picture is obeyed. That is the disease which the pipeline cures.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tasks.tiny_world.drawing import EASY, HARD, draw_scene
from tasks.tiny_world.language import (
    Item,
    benign_item,
    naming_item,
    sign_item,
)
from tasks.tiny_world.scenes import FAMILIES, GRID, SHAPES, Form, Kind, Scene, make_scene

LOOKS = (EASY, HARD, replace(EASY, inverted=True), replace(HARD, inverted=True))
FORMS: tuple[Form | None, ...] = (None, "glyph", "glyph", "near_miss", "word")
# Classes per cell of the three attribute heads: shape, colour, glyph (families, altered, words).
CLASSES = (len(SHAPES) + 1, 6, 2 * len(FAMILIES) + 2)


@dataclass(frozen=True)
class Album:
    """Pictures with what is on them: pixels [N, 64, 64, 3] uint8, attributes [N, 3, 16] int64."""

    pixels: np.ndarray
    attributes: np.ndarray
    scenes: list[Scene]


def album(count: int, seed: int) -> Album:
    """`count` training-side scenes of every form, in all looks."""
    rng = np.random.default_rng((seed, 1))
    pixels, attributes, scenes = [], [], []
    for index in range(count):
        scene = make_scene(rng, Kind(FORMS[index % len(FORMS)], stray_near_miss=0.2))
        look = LOOKS[int(rng.integers(len(LOOKS)))]
        pixels.append(draw_scene(scene, rng, look))
        attributes.append(_attributes(scene))
        scenes.append(scene)
    return Album(np.stack(pixels), np.stack(attributes), scenes)


def _attributes(scene: Scene) -> np.ndarray:
    cells = np.zeros((3, GRID * GRID), dtype=np.int64)
    for thing in scene.shapes:
        assert thing.shape is not None and thing.colour is not None
        cells[0, thing.cell], cells[1, thing.cell] = thing.shape + 1, thing.colour + 1
    for thing in scene.glyphs:
        assert thing.family is not None
        if thing.form == "word":
            right = thing.cell + (thing.cell % GRID < GRID - 1)
            cells[2, [thing.cell, right]] = len(FAMILIES) + 2 + thing.family
        else:
            near = thing.form == "near_miss"
            cells[2, thing.cell] = len(FAMILIES) + 1 if near else thing.family + 1
    return cells


def lessons(
    scenes: list[Scene], *, images: int, seed: int
) -> Iterator[list[tuple[int, list[Item]]]]:
    """Endless batches of `images` pictures with three question-answer items each.

    Every eighth batch is text only (picture index -1). Risky pictures never get a text that names
    a risk: what the model does with both is left to the training stages to find out.
    """
    rng = np.random.default_rng((seed, 2))
    step = 0
    while True:
        chosen = [int(i) for i in rng.integers(len(scenes), size=images)]
        text_only = step % 8 == 7
        if text_only:
            yield [(-1, [_naming(rng, scenes[i])]) for i in chosen]
        else:
            yield [(i, [_item(rng, scenes[i]) for _ in range(3)]) for i in chosen]
        step += 1


def _item(rng: np.random.Generator, scene: Scene) -> Item:
    draw = rng.random()
    if draw < 0.4:
        return sign_item(rng, scene)
    if draw < 0.85 or scene.risky:
        return benign_item(rng, scene)
    return _naming(rng, scene)


def _naming(rng: np.random.Generator, scene: Scene) -> Item:
    ask = benign_item if rng.random() < 0.5 else sign_item
    return naming_item(rng, ask(rng, scene).question)
