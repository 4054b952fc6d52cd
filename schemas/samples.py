"""What a row is: from a reader's RawRecord to the Parquet tables of a snapshot.

A snapshot holds `rows/`, `images/` and `rejects/` (Parquet). The counting unit is one
question-answer item. `images/` tells what is known of each image by its sha256; the bytes live once
in the root, in shards that all snapshots share.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA_VERSION = 2
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
        ("slices", pa.map_(pa.string(), pa.string())),
        ("extra", pa.string()),
    ],
    metadata={"psavlm.rows": str(SCHEMA_VERSION)},
)

# What is known of an image; its bytes lie in the root's image library (tasks/images.py). The
# perceptual hash is PDQ's: 256 bits in hexadecimal; below quality 50 it says nothing.
IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("phash", pa.string()),
        ("phash_quality", pa.int8()),
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

    `level` is the source's own level where it has one, else the mapping's default is used; of
    several labels (`also`) the one with the highest level counts, the others go to `extra`.
    `slices` are named groups that results are reported for later (region, style, ...).
    `source_key` names file and place, so that a person can find the record again.
    """

    source_key: str
    messages: tuple[Message, ...]
    images: tuple[ImageRef, ...] = ()
    label: str | None = None
    level: str | None = None
    also: tuple[str, ...] = ()
    split: str | None = None
    language: str = ""
    licence: str = ""
    slices: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RawReject:
    """Something in a source that is not a record, with a reason code and a detail for people."""

    source_key: str
    reason: str
    detail: str


def askable(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows (with `image_ids`) today's models can take whole: those of one image or none."""
    return pc.less_equal(pc.list_value_length(rows["image_ids"]), 1)


def sample_id(
    source: str, source_key: str, messages: tuple[Message, ...], image_ids: list[str]
) -> str:
    """The identity of a sample: sha256 over source, key, text and image ids, not over order."""
    digest = hashlib.sha256()
    parts = [source, source_key, *(f"{m.role}\x1f{m.text}" for m in messages), *image_ids]
    for part in parts:
        digest.update(part.encode() + b"\x1e")
    return digest.hexdigest()
