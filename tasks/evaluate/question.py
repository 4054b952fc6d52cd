"""What an arm is asked of a test row: what the user says first, with its image if it has one."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.taxonomy import CLEAN

# A risk type and level, as a row states them.
Label = tuple[str, int]


@dataclass(frozen=True)
class Question:
    """One test item as it is asked; `image_id` is None for text alone."""

    sample_id: str
    text: str
    image_id: str | None
    label: Label

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Question":
        """A row of the test split."""
        image = row["image_ids"][0] if row["image_ids"] else None
        label = row["risk_type"], row["risk_level"]
        return cls(row["sample_id"], question_of(row), image, label)

    @property
    def benign(self) -> bool:
        """Whether the item is stated to be clean."""
        return self.label[0] == CLEAN


def question_of(row: dict[str, Any]) -> str:
    """The first thing that the user says."""
    return next(m["text"] for m in row["messages"] if m["role"] == "user")


def prompt_hash(prompt: str, image_id: str | None) -> str:
    """sha256 over text and image: what two models were asked alike."""
    return hashlib.sha256(json.dumps([prompt, image_id]).encode()).hexdigest()


def images_of(questions: Sequence[Question]) -> list[str]:
    """The images of those that have one."""
    return [one.image_id for one in questions if one.image_id is not None]
