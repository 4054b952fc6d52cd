"""The three experiments: projector isolation, token categorisation, head on a balanced set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.probe import between_classes, linear_probe, plane
from schemas.probe import (
    FLAGGED,
    HEAD,
    LEVEL,
    LEVEL_NAMED,
    PROJECTOR,
    SPREAD,
    TOKENS,
    TYPE,
    TYPE_NAMED,
    ProbeConfig,
    ProbeRow,
)  # fmt: skip
from schemas.report import DESCRIBED, Metric
from schemas.taxonomy import CLEAN
from tasks.encode import FeatureCache
from tasks.evaluate.intervals import clustered_mean, rate, wilson
from tasks.evaluate.question import question_of
from tasks.probe.rows import Images, balanced_cells, images_of
from tasks.probe.states import (
    ENCODER,
    TRAINED,
    WITHOUT,
    WORDS,
    Opened,
    image_states,
    prompt_states,
)

ALL = "all cells"
Rows = list[dict[str, Any]]


class Picture(NamedTuple):
    """Test images on a plane, before and after: places [n, 2] by name, and their types [n]."""

    places: dict[str, np.ndarray]
    types: np.ndarray


class Probed(NamedTuple):
    """What the experiments are given."""

    config: ProbeConfig
    found: Opened
    cache: FeatureCache
    train: Rows
    test: Rows
    seed: int


def projector(given: Probed) -> tuple[list[ProbeRow], Picture]:
    """How much of an image's risk type a straight line reads, at each stage of its way."""
    taxonomy = given.found.methods[given.found.first].taxonomy
    train, test = images_of(given.train, taxonomy), images_of(given.test, taxonomy)
    seen = {name: _states(given, images) for name, images in (("train", train), ("test", test))}
    rows, places = [], {}
    labels, truth = torch.tensor(train.types), torch.tensor(test.types)
    for name, own in seen["train"].items():
        unseen = seen["test"][name]
        called = linear_probe(
            own, labels, unseen, classes=len(taxonomy.types), penalty=given.config.penalty
        )
        hits = (called == truth).numpy()
        rows.append(_row(PROJECTOR, name, TYPE, _share(hits, test.ids, given.config)))
        spread = between_classes(unseen, truth)
        whole = Metric(value=spread, n=len(test.ids), low=spread, high=spread, method=DESCRIBED)
        rows.append(_row(PROJECTOR, name, SPREAD, whole))
        if name in (ENCODER, TRAINED):
            places[name] = plane(own, unseen).numpy()
    return rows, Picture(places, test.types)


def tokens(given: Probed) -> list[ProbeRow]:
    """How much of a row's type and level a straight line reads before the answer, by its tokens."""
    rows = []
    taxonomy = given.found.methods[given.found.first].taxonomy
    number = {name: i for i, name in enumerate(taxonomy.type_ids)}
    asked: dict[str, tuple[int, Callable[[dict[str, Any]], int]]] = {
        TYPE: (len(taxonomy.types), lambda row: number[row["risk_type"]]),
        LEVEL: (len(taxonomy.levels), lambda row: int(row["risk_level"])),
    }
    images = [row["image_id"] for row in given.test]
    for name, own, unseen in _by_tokens(given):
        for measure, (classes, of) in asked.items():
            labels, truth = (torch.tensor(list(map(of, r))) for r in (given.train, given.test))
            called = linear_probe(
                own, labels, unseen, classes=classes, penalty=given.config.penalty
            )
            hits = (called == truth).numpy()
            rows.append(_row(TOKENS, name, measure, _share(hits, images, given.config)))
    return rows


def head(given: Probed) -> list[ProbeRow]:
    """The first method's head on equally many test rows of each type and level."""
    guarded, rows = given.found.methods[given.found.first], []
    hits: dict[str, list[np.ndarray]] = {}
    for (kind, level), own in balanced_cells(given.test, seed=given.config.seed).items():
        features = given.cache.batch([row["image_id"] for row in own])
        verdicts = guarded.judge(features, [question_of(row) for row in own])
        seen = [verdict for verdict in verdicts if verdict is not None]
        told = {
            FLAGGED: [verdict.flagged for verdict in seen],
            TYPE_NAMED: [max(v.type_probs, key=v.type_probs.__getitem__) == kind for v in seen],
            LEVEL_NAMED: [int(np.argmax(list(v.level_probs.values()))) == level for v in seen],
        }
        name = CLEAN if kind == CLEAN else f"{kind}, level {level}"
        for measure, hit in told.items():
            rows.append(_row(HEAD, name, measure, rate(np.array(hit))))
            if measure != FLAGGED:
                hits.setdefault(measure, []).append(np.array(hit))
    whole = [_row(HEAD, ALL, measure, rate(np.concatenate(own))) for measure, own in hits.items()]
    return rows + whole


def _by_tokens(given: Probed) -> list[tuple[str, Tensor, Tensor]]:
    """Name of the tokens, states of the training rows and of the test rows."""
    found = []
    variants = [(WITHOUT, given.found.first, False)]
    variants += [
        (f"{WORDS[part.llm_tokens]} ({name})", name, True)
        for name, part in given.found.parts.items()
        if part.llm_tokens != "none"
    ]
    for told, name, shown in variants:
        guarded = given.found.methods[name]
        states = [
            prompt_states(guarded, given.cache, rows, tokens=shown, batch=given.config.batch)
            for rows in (given.train, given.test)
        ]
        found.append((told, states[0], states[1]))
    return found


def _states(given: Probed, images: Images) -> dict[str, Tensor]:
    return image_states(
        given.found, given.cache, images.ids, batch=given.config.batch, seed=given.seed
    )


def _share(hits: np.ndarray, images: list[str], config: ProbeConfig) -> Metric:
    """A share of rows with an interval that knows which of them have one image."""
    share = float(hits.mean())
    metric = wilson(share, len(set(images)))
    if not 0 < share < 1:
        return Metric.model_validate({**metric.model_dump(), "n": len(hits)})
    low, high = clustered_mean(
        hits.astype(float), np.array(images), draws=config.bootstrap, seed=config.seed
    )
    return Metric(value=share, n=len(hits), low=low, high=high, method="bootstrap_by_image")


def _row(experiment: str, what: str, measure: str, metric: Metric) -> ProbeRow:
    return ProbeRow(experiment=experiment, what=what, measure=measure, metric=metric)
