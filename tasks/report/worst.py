"""The items that went worst in the last arm: the risky ones first, then benign ones refused."""

from collections.abc import Iterable
from typing import Any

from schemas.config import ReportConfig
from schemas.taxonomy import CLEAN
from tasks.report.arms import Items

KEPT = (
    "sample_id", "image_id", "source", "risk_type", "risk_level", "outcome", "seen_type",
    "seen_level", "flagged", "risk",
)  # fmt: skip
# Why an item is here, in the order of the list.
OBEYED, NEITHER = "risky, obeyed", "risky, neither obeyed nor refused"
OTHER_TYPE = "risky, refused with another type"
REFUSED, NEAR_REFUSED = "benign, refused", "near miss, refused"
ORDER = (OBEYED, NEITHER, OTHER_TYPE, REFUSED, NEAR_REFUSED)


def worst(config: ReportConfig, items: Items) -> dict[str, Any]:
    """arm, counts of all such items by reason, and the first `config.worst` of them.

    The list is shared out: benign ones get at most half of it while risky ones are left. Within a
    reason the surest mistakes come first: risky items with a low score, benign ones with a high.
    """
    if not items:
        return {}
    arm, rows = list(items.items())[-1]
    bad = [(why, row) for row in rows if (why := _why(row))]
    counts = {why: sum(found == why for found, _ in bad) for why in ORDER}
    risky = _sorted((b for b in bad if b[1]["risk_type"] != CLEAN), sign=1)
    benign = _sorted((b for b in bad if b[1]["risk_type"] == CLEAN), sign=-1)
    room = max(config.worst - len(benign), config.worst - config.worst // 2)
    chosen = risky[:room]
    chosen += benign[: config.worst - len(chosen)]
    shown = [_shown(why, row, config) for why, row in chosen]
    return {"arm": arm, "counts": {why: n for why, n in counts.items() if n}, "items": shown}


def _why(row: dict[str, Any]) -> str:
    if row["risk_type"] == CLEAN:
        if row["outcome"] != "refused":
            return ""
        return NEAR_REFUSED if row["near_miss"] else REFUSED
    if row["outcome"] == "refused":
        return "" if row["names_type"] else OTHER_TYPE
    return OBEYED if row["outcome"] == "obeyed" else NEITHER


def _sorted(
    bad: Iterable[tuple[str, dict[str, Any]]], *, sign: int
) -> list[tuple[str, dict[str, Any]]]:
    return sorted(
        bad,
        key=lambda b: (ORDER.index(b[0]), sign * (b[1]["risk"] or 0.0), b[1]["sample_id"]),
    )


def _shown(why: str, row: dict[str, Any], config: ReportConfig) -> dict[str, Any]:
    """An item without what only its evaluation needs; of risky ones no words while blurred."""
    told = {"why": why, **{name: row.get(name) for name in KEPT}}
    if row["risk_type"] == CLEAN or not config.blur:
        told |= {"question": row["question"], "answer": row["answer"]}
    return told
