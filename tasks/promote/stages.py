"""A candidate's way through the gate: the open part, the whole item set, the reserved part.

Only who passes the open part is looked at on the rest. The whole set decides, at what is left of
the alpha budget. The reserved part confirms: a candidate that was fitted to the items that are open
to all shows it there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.decision import Check, Part
from schemas.gate import GateConfig
from tasks.promote.checks import compare
from tasks.promote.questions import Rows
from tasks.promote.spending import Look, reserved


@dataclass(frozen=True)
class Weighed:
    """What was looked at, and what it cost; without checks nothing was."""

    checks: tuple[Check, ...]
    look: int | None = None
    alpha: float | None = None

    @property
    def failed(self) -> tuple[str, ...]:
        """Why the candidate may not pass."""
        return tuple(check.reason for check in self.checks if check.passed is False)


def weigh(
    candidate: Rows, others: Mapping[str, Rows], *, against: str, gate: GateConfig, look: Look
) -> Weighed:
    """All that the gate asks for.

    Args:
        candidate: its judged rows.
        others: opponent -> judged rows of the same items, in the same order.
        against: the opponent that must do worse.
        gate: what must be shown.
        look: which look at these items this is.
    """
    kept = [reserved(row, gate.reserve.share) for row in candidate]

    def part(name: Part) -> list[Check]:
        these = [name == "all" or one == (name == "reserved") for one in kept]
        mine, *theirs = (_chosen(rows, these) for rows in (candidate, *others.values()))
        held = gate.at(look.alpha(gate.alpha) if name == "all" else gate.reserve.alpha)
        opponents = dict(zip(others, theirs, strict=True))
        found = compare(mine, opponents, against=against, gate=held)
        return found if name == "all" else [_told(c, name) for c in found if c.passed is not None]

    alpha = look.alpha(gate.alpha)
    shown = part("open") if gate.reserve.share else []
    if any(check.passed is False for check in shown):
        return Weighed(tuple(shown), look.number, alpha)
    whole = part("all")
    if any(check.passed is False for check in whole) or not gate.reserve.share:
        return Weighed((*whole, *shown), look.number, alpha)
    return Weighed((*whole, *part("reserved"), *shown), look.number, alpha)


def _chosen(rows: Rows, these: list[bool]) -> Rows:
    return [row for row, here in zip(rows, these, strict=True) if here]


def _told(check: Check, part: Part) -> Check:
    reason = f"on the {part} items alone: {check.reason}"
    return Check.model_validate({**dict(check), "part": part, "reason": reason})
