"""A model behind an OpenAI-compatible endpoint, asked the items of a snapshot and judged alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.answers import AnswerCache
from infra.chat import Chat, Question, Reply
from infra.fingerprint import content_hash
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from schemas.errors import DataError
from schemas.taxonomy import load_taxonomy
from tasks.evaluate.judging import Judge
from tasks.evaluate.metrics import arm_report
from tasks.evaluate.step import ITEMS, REPORT, held_out_rows, judged_item, question_of
from tasks.evaluate.step import VERSION as EVALUATE_VERSION
from tasks.images import read_images
from tasks.progress import progress

STEP, VERSION = "evaluate_endpoint", 1
FILTERED = "content_filter"
# More faults than this, and the numbers would be about the faults.
MOST_FAULTS = 0.01


def ask_endpoint(
    config: EvaluateConfig,
    address: str,
    *,
    labelled: Artifact,
    samples: Artifact,
    store: Store,
) -> Artifact:
    """`items.parquet` and `report.json` as of `evaluate`, of the model at `https://host/v1#model`.

    Answers are kept as they come in: what was killed and runs again asks nothing twice. They are
    known by address and model name, so that other weights need another name. An answer that the
    endpoint's own filter withholds counts as refused.

    Args:
        config: answer length, judging, intervals.
        address: the endpoint's, with the model's name after #.
        labelled: its test split is what is asked.
        samples: where its images are.
        store: where artifacts live.

    Raises:
        ConfigError: the address is none, or the endpoint knows neither key nor model.
        ServerError: it breaks off, try after try.
        DataError: no test items, or too many that the endpoint does not take.
    """
    chat = Chat(address)
    asked = {"url": chat.url, "model": chat.model}
    return store.artifact(
        STEP,
        VERSION,
        config={**config.model_dump(), **asked},
        parents={"labelled": labelled, "samples": samples},
        inputs={
            "evaluate": str(EVALUATE_VERSION),
            "taxonomy": content_hash(load_taxonomy(config.taxonomy)),
        },
        build=lambda folder: _build(config, chat, (labelled, samples), store, folder),
    )


def _build(
    config: EvaluateConfig,
    chat: Chat,
    items: tuple[Artifact, Artifact],
    store: Store,
    folder: Path,
) -> dict[str, int]:
    rows = held_out_rows(store.local(items[0]))
    replies = _answers(rows, chat, items[1], config.max_new_tokens)
    faults = [one["fault"] for one in replies if one["fault"] not in ("", FILTERED)]
    if len(faults) > MOST_FAULTS * len(rows):
        raise DataError(
            f"the endpoint of {chat.model!r} did not take {len(faults)} of {len(rows)} questions "
            f"({', '.join(sorted(set(faults)))}): see whether the model reads images and questions "
            "of this size; what was answered is kept"
        )
    judge = Judge.of(rows, config.refusal_markers)
    judged = [_judged(*both, judge) for both in zip(rows, replies, strict=True)]
    report = arm_report("endpoint", judged, config, load_taxonomy(config.taxonomy))
    pq.write_table(pa.Table.from_pylist(judged), folder / ITEMS)
    (folder / REPORT).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    return {"items": len(judged), "faults": len(faults)}


def _judged(row: dict[str, Any], reply: Mapping[str, Any], judge: Judge) -> dict[str, Any]:
    from model.guard import Answer

    found = judged_item(row, Answer(text=reply["text"], verdict=None), judge)
    if reply["fault"]:
        found |= {"outcome": "refused" if reply["fault"] == FILTERED else "neither"}
    return found


def _answers(
    rows: Sequence[dict[str, Any]], chat: Chat, samples: Artifact, longest: int
) -> list[dict[str, Any]]:
    """A reply (text and fault) per row; only what is not known yet is asked."""
    cache = AnswerCache({"url": chat.url, "model": chat.model, "max_tokens": longest})
    keys = [{"text": question_of(row), "images": row["image_ids"]} for row in rows]
    missing = [place for place, key in enumerate(keys) if cache.get(key) is None]
    ids = sorted({name for place in missing for name in rows[place]["image_ids"]})
    images = dict(read_images(samples, ids)) if ids else {}
    questions = [
        Question(keys[place]["text"], next(map(images.get, rows[place]["image_ids"]), None))
        for place in missing
    ]
    with progress(f"ask {chat.model}", len(rows)) as tick:
        done = len(rows) - len(missing)

        def kept(place: int, reply: Reply) -> None:
            nonlocal done
            done += 1
            cache.add(keys[missing[place]], {"text": reply.text, "fault": reply.fault})
            tick(done, "items")

        chat.ask_all(questions, max_tokens=longest, kept=kept)
    found = [cache.get(key) for key in keys]
    return [one for one in found if one is not None]
