"""The rows of each global batch, as the order plan states them, and each worker's slice."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.parts import read_parts
from schemas.artifact import Artifact
from schemas.config import NOTHING, HeldOut
from schemas.errors import DataError
from schemas.policy import REFUSAL_MARKERS, refusal_pattern, straight
from schemas.samples import ROWS, Message, askable
from schemas.taxonomy import CLEAN, Taxonomy
from tasks.encode import FeatureCache

if TYPE_CHECKING:
    import torch

BYTES_PER_TOKEN = 4
COLUMNS = ["sample_id", "image_ids", "messages", "risk_type", "risk_level", "supervises"]


@dataclass(frozen=True)
class Item:
    """One training or evaluation item; `image_id` is None for text alone."""

    sample_id: str
    image_id: str | None
    messages: tuple[Message, ...]
    risk_type: int
    risk_level: int
    teaches_language: bool

    @property
    def question(self) -> str:
        """The first thing that the user says: what the safety head is asked with."""
        return next(m.text for m in self.messages if m.role == "user")


def to_items(rows: list[dict[str, Any]], taxonomy: Taxonomy) -> list[Item]:
    """Rows of the ROWS schema as items with class numbers."""
    number = {name: i for i, name in enumerate(taxonomy.type_ids)}
    return [
        Item(
            sample_id=row["sample_id"],
            image_id=row["image_ids"][0] if row["image_ids"] else None,
            messages=tuple(Message(m["role"], m["text"]) for m in row["messages"]),
            risk_type=number[row["risk_type"]],
            risk_level=row["risk_level"],
            teaches_language=row["supervises"] == "both",
        )
        for row in rows
    ]


def calibration_items(
    labelled: Path, taxonomy: Taxonomy, *, held_out: HeldOut = NOTHING
) -> list[Item]:
    """The calibration split's items of one image, without those that are held out."""
    table = read_parts(labelled / "rows", ROWS, columns=[*COLUMNS, "split", "source"])
    table = table.filter(pc.and_(pc.equal(table["split"], "calibration"), askable(table)))
    rows = table.sort_by("sample_id").to_pylist()
    seen = [row for row in rows if not held_out.holds(row["risk_type"], row["source"])]
    items = to_items(seen, taxonomy)
    return [item for item in items if item.image_id is not None]


class TrainingData:
    """Balanced rows in the plan's order, with features by image; the plan repeats when it ends."""

    def __init__(
        self, balanced: Path, features: Artifact, taxonomy: Taxonomy, *, readers: int = 1
    ) -> None:
        rows = read_parts(balanced / "rows", ROWS, columns=COLUMNS)
        self.rows = rows.sort_by("sample_id")
        self.plan = pq.read_table(balanced / "plan.parquet")["row"].to_numpy()
        self.features = FeatureCache(features, readers=readers)
        self.taxonomy = taxonomy
        self._ids: np.ndarray | None = None

    def batch(self, step: int, size: int, rank: int, world: int) -> list[Item]:
        """This rank's share of global batch `step`: a contiguous part of `size / world` items."""
        self.features.expect(partial(self._upcoming, step, size, rank, world))
        rows = self._rows_of(step, size, rank, world)
        return to_items(self.rows.take(rows).to_pylist(), self.taxonomy)

    def _rows_of(self, step: int, size: int, rank: int, world: int) -> "np.ndarray":
        share = size // world
        first = step * size + rank * share
        return self.plan[np.arange(first, first + share) % len(self.plan)]

    def _upcoming(self, step: int, size: int, rank: int, world: int, count: int) -> list[str]:
        """About `count` images that this rank will need from this step on."""
        steps = range(step, step + 1 + count * world // size)
        rows = np.concatenate([self._rows_of(one, size, rank, world) for one in steps])
        return [ids[0] for ids in self.rows["image_ids"].take(rows).to_pylist() if ids]

    def longest(self, steps: int, size: int, rank: int, world: int) -> int:
        """The first of `steps` global batches in whose share of this rank the longest item is."""
        share = size // world
        positions = np.arange(steps)[:, None] * size + rank * share + np.arange(share)
        lengths = self._lengths()[self.plan[positions % len(self.plan)]]
        return int(np.lexsort((-np.arange(steps), lengths.sum(1), lengths.max(1)))[-1])

    def row_numbers(self, items: Sequence[Item]) -> "np.ndarray":
        """The row of each item among the balanced rows sorted by sample_id, as in the plan."""
        if self._ids is None:
            self._ids = np.array(self.rows["sample_id"].to_pylist())
        return np.searchsorted(self._ids, [item.sample_id for item in items]).astype(np.int32)

    @cached_property
    def digest(self) -> str:
        """A hash of what is trained on and in which order: sample ids and plan."""
        found = hashlib.sha256("\n".join(self.rows["sample_id"].to_pylist()).encode())
        found.update(np.ascontiguousarray(self.plan, dtype="<i8").tobytes())
        return found.hexdigest()

    def _lengths(self) -> "np.ndarray":
        """About how many positions each row takes, [N].

        A token is about four bytes of UTF-8: four letters in English, a character or so in Chinese.
        """
        messages = self.rows["messages"].combine_chunks()
        texts = pc.struct_field(pc.list_flatten(messages), "text")
        sizes = np.bincount(
            pc.list_parent_indices(messages).to_numpy(),
            weights=pc.binary_length(texts).to_numpy(zero_copy_only=False),
            minlength=len(self.rows),
        )
        lengths = sizes / BYTES_PER_TOKEN
        firsts = [ids[0] if ids else None for ids in self.rows["image_ids"].to_pylist()]
        seen = [i for i, name in enumerate(firsts) if name is not None]
        if seen:
            lengths[seen] += self.features.patches([firsts[i] for i in seen])
        return lengths

    def keep_clean(self) -> None:
        """Leave all but the clean rows out of the plan; DataError if there are none."""
        clean = np.array(self.rows["risk_type"].to_pylist()) == CLEAN
        self.plan = self.plan[clean[self.plan]]
        if not len(self.plan):
            raise DataError(
                "the method learns from clean rows alone (stage2_rows), and the training order has "
                "none: give sources with clean rows, and a clean_per_unsafe above 0"
            )

    def donors(self, markers: Sequence[str] = REFUSAL_MARKERS) -> dict[tuple[int, int], list[str]]:
        """Refusals by (type, level): the answers to teach where that concept is told.

        They are the answers of the order's own risky rows, as far as they may be taught and say
        that they refuse; sorted by sample id.
        """
        risky = self.rows.filter(pc.not_equal(self.rows["risk_type"], CLEAN))
        marker = re.compile(refusal_pattern(markers), re.IGNORECASE)
        found: dict[tuple[int, int], list[str]] = {}
        for item in to_items(risky.to_pylist(), self.taxonomy):
            told = [m.text for m in item.messages if m.role == "assistant"]
            if item.teaches_language and told and marker.search(straight(told[0])):
                found.setdefault((item.risk_type, item.risk_level), []).append(told[0])
        return found

    def class_weights(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """Weights of the types [K] and levels [L]: N / (C * how often a class is in the plan).

        C is the number of classes that occur; those that do not have weight 0.
        """
        import torch

        number = {name: i for i, name in enumerate(self.taxonomy.type_ids)}
        types = np.array([number[name] for name in self.rows["risk_type"].to_pylist()])
        levels = self.rows["risk_level"].to_numpy()
        weights = []
        for classes, size in ((types, len(number)), (levels, len(self.taxonomy.levels))):
            counts = np.bincount(classes[self.plan], minlength=size)
            weight = len(self.plan) / (np.count_nonzero(counts) * np.maximum(counts, 1))
            weights.append(torch.tensor(weight * (counts > 0), dtype=torch.float32))
        return weights[0], weights[1]

    def images(self, items: Sequence[Item]) -> "torch.Tensor":
        """h_o [B, P, V] of items that all have an image."""
        return self.features.batch([item.image_id for item in items if item.image_id is not None])

    def features_of(self, items: Sequence[Item]) -> list[Any]:
        """h_o [P, V] of each item, None for text alone."""
        seen = [item for item in items if item.image_id is not None]
        images = iter(self.images(seen)) if seen else iter(())
        return [None if item.image_id is None else next(images) for item in items]
