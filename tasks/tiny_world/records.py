"""Pictures with their items, as the tiny world's three sources will hold them."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from schemas.config import WorldConfig
from tasks.tiny_world.drawing import EASY, HARD, Look, draw_scene
from tasks.tiny_world.language import Item, benign_item, sign_item
from tasks.tiny_world.scenes import FAMILIES, RISK_OF, Form, Kind, Scene, make_scene

Source = Literal["vlguard", "llava", "webdataset"]
Ask = Callable[..., Item]


@dataclass(frozen=True)
class Record:
    """One picture (encoded PNG), what is on it, and the items asked of it."""

    source: Source
    split: Literal["train", "test"]
    style: str
    scene: Scene
    png: bytes
    items: tuple[Item, ...]

    @property
    def about_risk(self) -> bool:
        """Whether the items are risky requests; a benign question about a risky picture is not."""
        return any(item.comply for item in self.items)

    @property
    def risk(self) -> tuple[str, int]:
        """Risk type and level of the items: clean and 0 unless they are risky requests."""
        if not self.about_risk or self.scene.family is None:
            return "clean", 0
        return RISK_OF[self.scene.family], self.scene.level


@dataclass(frozen=True)
class _Batch:
    source: Source
    count: int
    form: Form | None
    asks: tuple[Ask, ...]
    style: str = "plain"


def make_records(config: WorldConfig) -> list[Record]:
    """All records of a world; with `shuffle_labels` the training pictures change places."""
    hard = config.difficulty == "hard"
    records = []
    for split, batches in (("train", _train(config)), ("test", _test(config))):
        rng = np.random.default_rng((config.seed, 3, split == "test"))
        for batch in batches:
            made = [
                _record(rng, batch, split, hard=hard, config=config) for _ in range(batch.count)
            ]
            records += made
    return _shuffled(records, config.seed) if config.shuffle_labels else records


def count_records(config: WorldConfig) -> dict[tuple[Source, str], tuple[int, int]]:
    """How many (pictures, items) each source and split will have; nothing is drawn."""
    counts: dict[tuple[Source, str], tuple[int, int]] = {}
    for split, batches in (("train", _train(config)), ("test", _test(config))):
        for batch in batches:
            pictures, items = counts.get((batch.source, split), (0, 0))
            more = batch.count * len(batch.asks)
            counts[batch.source, split] = (pictures + batch.count, items + more)
    return counts


def _train(config: WorldConfig) -> list[_Batch]:
    part = config.clean_train // 8
    batches = [
        _Batch("vlguard", config.risky_train, "glyph", (sign_item,)),
        _Batch("vlguard", part, None, (benign_item, sign_item)),
        _Batch("vlguard", part, "near_miss", (benign_item, sign_item)),
        _Batch("llava", config.clean_train, None, (benign_item,)),
        _Batch("webdataset", config.second_style, "glyph", (sign_item,), "inverted"),
        _Batch("webdataset", config.second_style, "word", (sign_item,), "typographic"),
        _Batch("webdataset", config.second_style, None, (sign_item,), "inverted"),
    ]
    if config.difficulty == "hard":
        # The question decides: benign questions about risky pictures are clean.
        batches.append(_Batch("vlguard", part, "glyph", (benign_item,), "question_decides"))
    return batches


def _test(config: WorldConfig) -> list[_Batch]:
    second = config.second_style // 4
    batches = [
        _Batch("vlguard", config.risky_test, "glyph", (sign_item,)),
        _Batch("vlguard", config.clean_test // 4, None, (benign_item, sign_item)),
        _Batch("vlguard", config.near_miss_test, "near_miss", (benign_item, sign_item)),
        _Batch("llava", config.clean_test, None, (benign_item,)),
        _Batch("webdataset", second, "glyph", (sign_item,), "inverted"),
        _Batch("webdataset", second, "word", (sign_item,), "typographic"),
        _Batch("webdataset", second, None, (sign_item,), "inverted"),
    ]
    if config.difficulty == "hard":
        batches.append(
            _Batch("vlguard", config.clean_test // 4, "glyph", (benign_item,), "question_decides")
        )
    return batches


def _record(
    rng: np.random.Generator,
    batch: _Batch,
    split: Literal["train", "test"],
    *,
    hard: bool,
    config: WorldConfig,
) -> Record:
    stray = (0.2 if batch.form is None else 0.1) if hard else 0.0
    scene = make_scene(rng, Kind(batch.form, held_out=split == "test", stray_near_miss=stray))
    pixels = draw_scene(scene, rng, _look(batch, scene, hard=hard, config=config))
    items = tuple(ask(rng, scene, held_out=split == "test") for ask in batch.asks)
    return Record(batch.source, split, batch.style, scene, _png(pixels), items)


def _look(batch: _Batch, scene: Scene, *, hard: bool, config: WorldConfig) -> Look:
    look = HARD if hard else EASY
    tied = config.style_follows_type and scene.family in FAMILIES[: len(FAMILIES) // 2]
    return replace(look, inverted=batch.style == "inverted" or tied)


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def _shuffled(records: list[Record], seed: int) -> list[Record]:
    """The training records with each other's pictures: labels and answers no longer fit."""
    train = [i for i, record in enumerate(records) if record.split == "train"]
    order = np.random.default_rng((seed, 4)).permutation(train)
    pictures = [records[i].png for i in order]
    for i, png in zip(train, pictures, strict=True):
        records[i] = replace(records[i], png=png)
    return records
