"""PSA-VLM's own records: labels as numbers, in the form for training or for evaluation."""

from collections.abc import Iterator
from typing import Any

from infra.places import expand
from schemas.config import SourceConfig
from schemas.samples import ImageRef, RawRecord, RawReject
from tasks.sources.fields import (
    PLACEHOLDER,
    BadValue,
    image_refs,
    message,
    plain,
    question_answer,
    text,
    word,
)
from tasks.sources.json_records import Items, json_records, lacking

ROLES = {"USER": "user", "ASSISTANT": "assistant"}
SPLIT = "<split>"
TRAINING = ("safe_type", "safe_level", "conversations", "image")
EVALUATION = ("type", "refused_to_answer", "question", "answer", "image_path")


def read(source: SourceConfig, *, max_bytes: int) -> Items:
    """PSA-VLM's JSON Lines (or a JSON array) in both forms, told apart record by record.

    Training: safe_type, safe_level, image, conversations. Evaluation: type, refused_to_answer,
    image_path, question, answer. `a<split>b` are two images; the paths of the authors' machine
    lose their leading slash and are looked up under `images`. `max_bytes` is not needed.

    Example: format=psa-vlm,uri=PSA-VLM/train.jsonl,images=PSA-VLM/images,split=train
    """
    for file in expand(source.uri):
        yield from json_records(file, _items)


def _items(item: dict[str, Any], key: str) -> Iterator[RawRecord | RawReject]:
    yield (_training if "conversations" in item else _evaluation)(item, key)


def _training(item: dict[str, Any], key: str) -> RawRecord | RawReject:
    if refused := lacking(item, key, "safe_type", "safe_level"):
        return refused
    turns = item["conversations"]
    if not isinstance(turns, list) or not turns:
        return RawReject(key, "missing_key", "no list of turns in 'conversations'")
    messages = tuple(message(turn, ROLES) for turn in turns)
    if any(m.role != ("user", "assistant")[i % 2] for i, m in enumerate(messages)):
        return RawReject(key, "turns_out_of_order", "USER and ASSISTANT do not alternate")
    if any(m.role == "assistant" and not m.text for m in messages):
        return RawReject(key, "empty_answer", "an ASSISTANT turn without text")
    images = _images(item.get("image"))
    if not images and any(PLACEHOLDER in turn["value"] for turn in turns):
        return RawReject(key, "missing_key", f"{PLACEHOLDER} in the text, but no 'image'")
    return RawRecord(
        source_key=key,
        messages=messages,
        images=images,
        label=word(item["safe_type"]),
        level=word(item["safe_level"]),
        extra={k: plain(v) for k, v in item.items() if k not in TRAINING},
    )


def _evaluation(item: dict[str, Any], key: str) -> RawRecord | RawReject:
    if refused := lacking(item, key, "question", "type", "refused_to_answer"):
        return refused
    return RawRecord(
        source_key=key,
        messages=question_answer(text(item["question"]), text(item.get("answer"))),
        images=_images(item.get("image_path")),
        label=word(item["type"]),
        level=word(item["refused_to_answer"]),
        extra={k: plain(v) for k, v in item.items() if k not in EVALUATION},
    )


def _images(value: Any) -> tuple[ImageRef, ...]:
    if not isinstance(value, str) or not value:
        return image_refs(value)
    paths = [part.lstrip("/") for part in value.split(SPLIT)]
    if not all(paths):
        raise BadValue(f"image {value!r:.80}: a name on each side of {SPLIT} was expected")
    return image_refs(paths)
