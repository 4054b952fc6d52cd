"""`items.parquet`: one row an item, with what was asked, answered, seen and judged."""

from typing import Any

import pyarrow as pa

from tasks.benchmarks.item import Item, Verdict
from tasks.evaluate.question import prompt_hash
from tasks.respond import Told

NUMBERS = pa.map_(pa.string(), pa.float64())
TEXTS = pa.map_(pa.string(), pa.string())
SECOND = "second_"

ROWS = pa.schema(
    [
        ("item_id", pa.string()),
        ("group", pa.string()),
        ("slices", TEXTS),
        ("prompt_hash", pa.string()),
        ("prompt", pa.string()),
        ("image_id", pa.string()),
        ("target", pa.string()),
        ("wants", pa.string()),
        ("answer", pa.string()),
        ("fault", pa.string()),
        ("judge", pa.string()),
        ("verdict", pa.string()),
        ("right", pa.bool_()),
        ("refused", pa.bool_()),
        ("score", pa.float64()),
        ("phrase", pa.string()),
        ("judge_text", pa.string()),
        ("second_judge", pa.string()),
        ("second_verdict", pa.string()),
        ("second_refused", pa.bool_()),
        ("second_score", pa.float64()),
        ("second_phrase", pa.string()),
        ("second_judge_text", pa.string()),
        ("flagged", pa.bool_()),
        ("risk", pa.float64()),
        ("type_probabilities", NUMBERS),
        ("level_probabilities", NUMBERS),
        ("option_losses", NUMBERS),
        ("facts", TEXTS),
        ("place", pa.int64()),
        ("whole", pa.bool_()),
    ]
)
REJECTS = pa.schema([("key", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


def row_of(item: Item, image_id: str | None, told: Told) -> dict[str, Any]:
    """A row (ROWS) that no judge has seen yet."""
    return {
        **dict.fromkeys(ROWS.names),
        "item_id": item.id,
        "group": item.group or item.id,
        "slices": dict(item.slices),
        "prompt_hash": prompt_hash(item.prompt, image_id),
        "prompt": item.prompt,
        "image_id": image_id,
        "target": item.target,
        "wants": item.wants,
        "answer": told.text,
        "fault": told.fault,
        "flagged": told.flagged,
        "risk": told.risk,
        "type_probabilities": told.types,
        "level_probabilities": told.levels,
        "option_losses": told.losses,
        "facts": dict(item.facts),
        "place": item.place,
    }


def judged(row: dict[str, Any], verdict: Verdict, judge: str, *, place: str = "") -> dict[str, Any]:
    """The row with a judge's verdict in the first (or, by SECOND, the second) judge's columns."""
    told = {
        "judge": judge,
        "verdict": verdict.word,
        "refused": verdict.refused,
        "score": verdict.score,
        "phrase": verdict.phrase,
        "judge_text": verdict.text,
    }
    right = {} if place else {"right": verdict.right}
    return {**row, **right, **{f"{place}{name}": value for name, value in told.items()}}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """The rows as Arrow holds them."""
    return pa.Table.from_pylist(rows, schema=ROWS)
