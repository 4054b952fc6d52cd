"""What an arm is asked of a test row: what the user says first, with its image if it has one."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.taxonomy import CLEAN

if TYPE_CHECKING:
    from tasks.encode import FeatureCache

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


def features_of(questions: Sequence[Question], cache: "FeatureCache") -> "list[Any]":
    """h_o of each question's image, None for text alone."""
    found = iter(cache.batch(images) if (images := images_of(questions)) else ())
    return [None if one.image_id is None else next(found) for one in questions]


def upcoming(questions: Sequence[Question], first: int) -> Callable[[int], list[str]]:
    """From `first` on, the images of the next n questions: what a feature cache may read ahead."""
    return lambda count: images_of(questions[first : first + count])


def images_of(questions: Sequence[Question]) -> list[str]:
    """The images of those that have one."""
    return [one.image_id for one in questions if one.image_id is not None]
