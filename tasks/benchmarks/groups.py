"""Items that count together: MMBench's rotations of a question, MME's two about an image."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from tasks.benchmarks.item import Row


def whole_told(rows: Sequence[Row], lost: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows with `whole`: whether every item of their group was answered and judged.

    Args:
        rows: judged rows, and those without an answer.
        lost: groups of items that are no rows, since they could not be asked.
    """
    open_groups = {row["group"] for row in rows if not _placed(row)}.union(lost)
    return [{**row, "whole": row["group"] not in open_groups} for row in rows]


def _placed(row: Row) -> bool:
    return any(row[name] is not None for name in ("right", "refused", "score"))


def group_hits(parts: Iterable[tuple[Row, Any]]) -> dict[str, bool]:
    """Group -> whether it counts: where all its rows do and none is missing.

    A missing rotation is a wrong one: the official tools read a failed answer as no option.
    """
    hits: dict[str, bool] = {}
    for row, part in parts:
        hits[row["group"]] = hits.get(row["group"], True) and bool(part) and row["whole"]
    return hits
