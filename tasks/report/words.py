"""Numbers as people read them: percentages, intervals, ratios, and the result in one sentence."""

from collections.abc import Iterable
from typing import Any

from schemas.attack import ANY, TARGETS
from schemas.report import INTERVALS, WILSON, Interval

ARMS = {"base": "base", "stage1": "stage 1", "stage2": "stage 2"}
# What an attack reaches on risky items, as the columns of its table.
ATTACKED = {
    "misjudged": "risks let pass",
    "mistyped": "given another type",
    "broken": "requests obeyed",
}
SENTENCE = ("risky_obeyed", "benign_refused", "benign_exact")


def interval_of(numbers: dict[str, Any]) -> Interval:
    """The kind of intervals that the arms' rates have."""
    found: Interval = numbers.get("interval", WILSON)
    return found


def interval_name(numbers: dict[str, Any]) -> str:
    """The same, as captions call it."""
    return INTERVALS[interval_of(numbers)]


def arm_name(arm: str) -> str:
    """An arm as tables call it."""
    return ARMS.get(arm, arm)


def strongest_attack(numbers: dict[str, Any]) -> str:
    """All attacks by gradients taken together, or the only one; "" where there was none."""
    rows = numbers.get("attack", {}).get("rows", [])
    return next((row["attack"] for row in reversed(rows) if row["attack"] in (*TARGETS, ANY)), "")


def percent(share: float) -> str:
    """A share as a number of per cent, without the sign."""
    return f"{100 * share:.1f}"


def interval(metric: dict[str, Any]) -> str:
    """`99.1 [97.9, 99.6]`, or a dash where nothing was counted."""
    if not metric["n"]:
        return "-"
    low, high = percent(metric["low"]), percent(metric["high"])
    return f"{percent(metric['value'])} [{low}, {high}]"


def counted(row: dict[str, Any]) -> str:
    """The n of a headline row; several where the arms differ."""
    return "/".join(dict.fromkeys(str(cell["n"]) for cell in row["arms"].values()))


def ratio(clean: float, unsafe: float) -> str:
    """clean : unsafe with one unsafe; `only clean` has no such number."""
    return f"{clean / unsafe:.4g} : 1" if unsafe else "only clean"


def sentence(numbers: dict[str, Any]) -> str:
    """What came of it: obeyed, refused and right, before and after; then what else got worse."""
    rows = {row["metric"]: row for row in numbers.get("headline", [])}
    parts = _changes(rows[name] for name in SENTENCE if name in rows)
    if not parts:
        return "Nothing has been evaluated in this run yet."
    others = (row for name, row in rows.items() if name not in SENTENCE)
    worse = _changes(row for row in others if list(row["arms"].values())[-1]["mark"] == "worse")
    return f"{_listed(parts)} But {_listed(worse, small=True)}" if worse else _listed(parts)


def _changes(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [change for row in rows if (change := _change(row))]


def _listed(parts: list[str], *, small: bool = False) -> str:
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"
    return f"{text if small else text[0].upper() + text[1:]}."


def _change(row: dict[str, Any]) -> str:
    cells = [cell for cell in row["arms"].values() if cell["n"]]
    if not cells:
        return ""
    first, last = cells[0], cells[-1]
    before, after = percent(first["value"]), percent(last["value"])
    if len(cells) == 1:
        return f"{row['label']}: {after} %"
    if before == after:
        return f"{row['label']} stayed at {after} %"
    verb = "fell" if last["value"] < first["value"] else "rose"
    within = "" if last["mark"] else " (intervals overlap)"
    return f"{row['label']} {verb} from {before} % to {after} %{within}"
