"""Answers from outside, an endpoint's or a file's, to the items of a snapshot; judged as others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.answers import AnswerCache
from infra.completion import PASSING
from infra.fingerprint import content_hash
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from schemas.errors import DataError
from schemas.taxonomy import load_taxonomy
from tasks.evaluate.judging import Judge
from tasks.evaluate.metrics import arm_report
from tasks.evaluate.question import question_of
from tasks.evaluate.step import ITEMS, REPORT, held_out_rows, judged_item
from tasks.evaluate.step import VERSION as EVALUATE_VERSION
from tasks.images import read_images
from tasks.progress import progress
from tasks.respond import DECLINED, Ask, Responder, Told, asked_again

ENDPOINT, FILE, VERSION = "evaluate_endpoint", "evaluate_answers", 3
# More items without an answer than this, and the numbers would be about them.
MOST_FAULTS = 0.01


def ask_outside(
    config: EvaluateConfig,
    responder: Responder,
    *,
    labelled: Artifact,
    samples: Artifact,
    store: Store,
) -> Artifact:
    """`items.parquet` and `report.json` as of `evaluate`, of an endpoint or a file of answers.

    Answers of an endpoint are kept as they come in: what was killed and runs again asks nothing
    twice, and a run that finds questions declined asks these again (tasks/respond/again.py). They
    are known by address and model name, so that other weights need another name. A file's lines are
    found by `sample_id`, or taken in the order of `items.parquet`. An answer that an endpoint's own
    filter withholds counts as refused, an item without an answer in no rate; the column `fault`
    says why.

    Args:
        config: answer length, judging, intervals.
        responder: who answers.
        labelled: its test split is what is asked.
        samples: where its images are.
        store: where artifacts live.

    Raises:
        ConfigError: the endpoint knows neither key nor model.
        ServerError: it breaks off, try after try.
        DataError: no test items, or too many without an answer.
    """
    inputs = {
        "evaluate": str(EVALUATE_VERSION),
        "taxonomy": content_hash(load_taxonomy(config.taxonomy)),
    }

    def make(more: Mapping[str, str]) -> Artifact:
        return store.artifact(
            FILE if responder.free else ENDPOINT,
            VERSION,
            config={**config.model_dump(), **responder.identity},
            parents={"labelled": labelled, "samples": samples},
            inputs={**inputs, **more},
            build=lambda folder: _build(config, responder, (labelled, samples), store, folder),
        )

    return asked_again(make)


def _build(
    config: EvaluateConfig,
    responder: Responder,
    items: tuple[Artifact, Artifact],
    store: Store,
    folder: Path,
) -> dict[str, int]:
    rows = held_out_rows(store.local(items[0]))
    answers = _answers(rows, responder, items[1], config.max_new_tokens)
    faults = [one.fault for one in answers if one.unanswered]
    if len(faults) > MOST_FAULTS * len(rows):
        raise DataError(
            f"{responder.name!r} has no answer to {len(faults)} of {len(rows)} questions "
            f"({', '.join(sorted(set(faults)))}): see whether it reads images and questions of "
            "this size, whether it needs more tokens (max_new_tokens in the preset's [evaluate]), "
            "or whether the file belongs to these items; what was answered is kept"
        )
    judge = Judge.of(rows, config.refusal_markers)
    judged = [_judged(*both, judge) for both in zip(rows, answers, strict=True)]
    arm = "answers" if responder.free else "endpoint"
    known = [row for row, told in zip(judged, answers, strict=True) if not told.unanswered]
    report = arm_report(arm, known, config, load_taxonomy(config.taxonomy))
    pq.write_table(pa.Table.from_pylist(judged), folder / ITEMS)
    (folder / REPORT).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    filtered = sum(one.filtered for one in answers)
    declined = sum(one.fault in PASSING for one in answers)
    asked = {"items": len(judged), "faults": len(faults), "filtered": filtered}
    return {**asked, DECLINED: declined}


def _judged(row: dict[str, Any], told: Told, judge: Judge) -> dict[str, Any]:
    from model.guard import Answer

    found = judged_item(row, Answer(text=told.text, verdict=None), judge)
    if told.fault:
        found |= {"outcome": "refused" if told.filtered else "neither"}
    return {**found, "fault": told.fault}


def _answers(
    rows: Sequence[dict[str, Any]], responder: Responder, samples: Artifact, longest: int
) -> list[Told]:
    """An answer or a fault per row; of an endpoint only what is not known yet is asked."""
    cache = AnswerCache({**responder.identity, "max_tokens": longest})
    keys = [{"text": question_of(row), "images": row["image_ids"]} for row in rows]
    known = [None if responder.free else cache.get(key) for key in keys]
    found = {place: Told(**one) for place, one in enumerate(known) if one is not None}
    missing = [place for place in range(len(rows)) if place not in found]
    ids = sorted({name for place in missing for name in rows[place]["image_ids"]})
    images = dict(read_images(samples, ids)) if ids and not responder.free else {}
    with progress(f"ask {responder.name}", len(rows)) as tick:

        def kept(number: int, told: Told) -> None:
            place = missing[number]
            found[place] = told
            # What an endpoint declines today it may take tomorrow.
            if told.fault not in PASSING and not responder.free:
                cache.add(keys[place], {"text": told.text, "fault": told.fault})
            tick(len(found), "items")

        asks = [_ask(rows[place], place, images) for place in missing]
        responder.open()(asks, longest, kept)
    return [found[place] for place in range(len(rows))]


def _ask(row: dict[str, Any], number: int, images: dict[str, bytes]) -> Ask:
    names = (row["sample_id"],)
    data = next(map(images.get, row["image_ids"]), None)
    return Ask(names, number, question_of(row), data=data)
