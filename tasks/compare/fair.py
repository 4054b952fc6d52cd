"""Which items may count: those that both sides have answered and neither has learnt from."""

from collections.abc import Collection
from dataclasses import dataclass

from infra.completion import ANSWERED
from infra.parts import read_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.samples import ROWS
from tasks.promote.questions import Rows

COLUMNS = ("sample_id", "split", "group_id", "image_ids")


@dataclass(frozen=True)
class Side:
    """A model as people called it, its judged answers, and its labelled snapshot if it has one."""

    name: str
    answers: Artifact
    trained_on: Artifact | None = None


def unanswered(rows: Rows) -> set[str]:
    """The items without an answer; what an endpoint's filter withholds is one."""
    return {row["sample_id"] for row in rows if (row.get("fault") or "") not in ANSWERED}


def learnt(trained_on: Artifact | None, labelled: Artifact) -> set[str] | None:
    """The test items of a snapshot whose group or image a model was trained or calibrated on.

    Args:
        trained_on: the labelled snapshot that it learnt from.
        labelled: the snapshot of the items.

    Returns:
        Their sample ids; None where nobody knows what it learnt from.
    """
    if trained_on is None:
        return None
    if trained_on.fingerprint == labelled.fingerprint:
        return set()  # validate leaves no group on both sides
    known = set().union(*_marks(trained_on, held_out=False).values())
    return {name for name, own in _marks(labelled, held_out=True).items() if own & known}


def without(rows: Rows, left: Collection[str]) -> Rows:
    """The rows but those of some items."""
    return [row for row in rows if row["sample_id"] not in left]


def _marks(labelled: Artifact, *, held_out: bool) -> dict[str, set[str]]:
    """Group and images of each row of the test split, or of all others, by sample id."""
    folder = Store(labelled.uri.rsplit("/", 2)[0]).local(labelled) / "rows"
    rows = read_parts(folder, ROWS, columns=COLUMNS).to_pylist()
    return {
        row["sample_id"]: {row["group_id"], *row["image_ids"]}
        for row in rows
        if (row["split"] == "test") == held_out
    }
