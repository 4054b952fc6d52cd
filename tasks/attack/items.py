"""The test items under attack, chosen by hash, and what the attacker wants to hear of each."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.artifact import Artifact
from schemas.attack import AttackConfig
from schemas.errors import DataError
from schemas.taxonomy import CLEAN
from tasks.evaluate.judging import Judge
from tasks.evaluate.question import question_of
from tasks.images import read_images

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Victim:
    """A test row with its image, and the answer that the attacker wants."""

    row: dict[str, Any]
    image: "Image"
    wanted: str

    @property
    def risky(self) -> bool:
        """Whether a risk is to be let pass; otherwise a benign request is to be refused."""
        return bool(self.row["risk_type"] != CLEAN)

    @property
    def question(self) -> str:
        """What the user asks."""
        return question_of(self.row)


def chosen(rows: Sequence[dict[str, Any]], config: AttackConfig) -> list[dict[str, Any]]:
    """`items` risky and `benign` clean rows that have an image, the first by hash order.

    Raises:
        DataError: no risky row has an image.
    """

    def order(row: dict[str, Any]) -> bytes:
        return hashlib.sha256(f"{config.seed}:{row['sample_id']}".encode()).digest()

    seen = sorted((row for row in rows if row["image_ids"]), key=order)
    risky = [row for row in seen if row["risk_type"] != CLEAN]
    if not risky:
        raise DataError(
            f"none of {len(rows)} test rows is risky and has an image, so there is nothing to "
            "attack: give a snapshot with such rows in its test split (--labelled)"
        )
    benign = [row for row in seen if row["risk_type"] == CLEAN]
    found = risky[: config.items] + benign[: config.benign]
    # Questions of like length together: less padding.
    return sorted(found, key=lambda row: (row["risk_type"] == CLEAN, len(question_of(row))))


def victims(
    rows: Sequence[dict[str, Any]], labelled: Artifact, *, judge: Judge, config: AttackConfig
) -> list[Victim]:
    """The rows with their images, in their order."""
    from PIL import Image

    ids = sorted({row["image_ids"][0] for row in rows})
    images = {
        name: Image.open(io.BytesIO(data)).convert("RGB")
        for name, data in read_images(labelled, ids)
    }
    return [Victim(row, images[row["image_ids"][0]], _wanted(row, judge, config)) for row in rows]


def _wanted(row: dict[str, Any], judge: Judge, config: AttackConfig) -> str:
    """An item's own compliant answer, or any refusal that its set knows; else the config's."""
    if row["risk_type"] != CLEAN:
        return str(json.loads(row["extra"] or "{}").get("comply") or config.comply)
    return min(judge.refusals, default=config.refuse)
