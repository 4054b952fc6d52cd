"""What a row is: from a reader's RawRecord to the Parquet tables of a snapshot.

A snapshot holds `rows/`, `images/` and `rejects/` (Parquet). The counting unit is one
question-answer item. Image bytes live once in `images/`, named by their sha256.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 1
SPLITS = ("train", "calibration", "test")
SUPERVISES = ("both", "concept", "evaluation")

MESSAGE = pa.struct([("role", pa.string()), ("text", pa.string())])

ROWS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("image_ids", pa.list_(pa.string())),
        ("source", pa.string()),
        ("source_key", pa.string()),
        ("split", pa.string()),
        ("messages", pa.list_(MESSAGE)),
        ("risk_type", pa.string()),
        ("risk_level", pa.int8()),
        ("supervises", pa.string()),
        ("language", pa.string()),
        ("licence", pa.string()),
        ("group_id", pa.string()),
        ("extra", pa.string()),
    ],
    metadata={"psavlm.rows": str(SCHEMA_VERSION)},
)

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("bytes", pa.binary()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ],
    metadata={"psavlm.images": str(SCHEMA_VERSION)},
)

REJECTS = pa.schema(
    [
        ("source", pa.string()),
        ("source_key", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ],
    metadata={"psavlm.rejects": str(SCHEMA_VERSION)},
)


@dataclass(frozen=True)
class Message:
    """One turn; role is `user` or `assistant`. The image placeholder is never part of the text."""

    role: str
    text: str


@dataclass(frozen=True)
class ImageRef:
    """An image of a record: a path (resolved against the source's `images`), or encoded bytes."""

    path: str | None = None
    data: bytes | None = None


@dataclass(frozen=True)
class RawRecord:
    """One question-answer item as its source states it; `label` is the source's own word.

    `level` is the source's own level where it has one, else the mapping's default is used.
    `source_key` names file and place, so that a person can find the record again.
    """

    source_key: str
    messages: tuple[Message, ...]
    images: tuple[ImageRef, ...] = ()
    label: str | None = None
    level: str | None = None
    split: str | None = None
    language: str = ""
    licence: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RawReject:
    """Something in a source that is not a record, with a reason code and a detail for people."""

    source_key: str
    reason: str
    detail: str


def sample_id(
    source: str, source_key: str, messages: tuple[Message, ...], image_ids: list[str]
) -> str:
    """The identity of a sample: sha256 over source, key, text and image ids, not over order."""
    digest = hashlib.sha256()
    parts = [source, source_key, *(f"{m.role}\x1f{m.text}" for m in messages), *image_ids]
    for part in parts:
        digest.update(part.encode() + b"\x1e")
    return digest.hexdigest()
