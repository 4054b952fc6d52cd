"""What a question costs that is asked of items which were asked before.

The k-th look at an item set is held at

    alpha_k = alpha * 6 / (pi k)^2 * (promotions on this item set so far + 1)

which is LOND (A. Javanmard and A. Montanari, On online control of false discovery rate,
arXiv:1502.06197): of all promotions decided on the set, at most the share alpha is expected to be
wrong, and before the first one the chance of any wrong one is at most alpha, however often it was
asked. A look is a decision with evidence, also one that the open part refused: to choose by it for
nothing would make what follows pass five times as often. A question that was decided before, on the
same evaluations, pays nothing; other answers of the same model are another draw, and pay. Item sets
that share groups have one budget (tasks/promote/overlap.py).
"""

import hashlib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from schemas.decision import Decision
from tasks.promote.questions import Row

# The first format of decisions knew no looks: each with numbers was one.
BEFORE_LOOKS = 1


@dataclass(frozen=True)
class Look:
    """The number of a look at an item set, and the promotions decided on it before."""

    number: int = 1
    promotions: int = 0

    def alpha(self, whole: float) -> float:
        """What of the gate's alpha this look is held at."""
        return whole * 6 / (math.pi * self.number) ** 2 * (self.promotions + 1)


def next_look(
    decisions: Iterable[Decision], key: tuple[str, ...], *, sets: Collection[str]
) -> Look:
    """The look that a question is; one that was asked before keeps its number.

    Args:
        decisions: all so far, in order.
        key: `Decision.key` of the question.
        sets: the question's item set, and those that share its budget.
    """
    asked, won = set(), set()
    for decision in decisions:
        if decision.items not in sets or not looked(decision):
            continue
        asked.add(decision.key)
        if decision.key == key:
            return Look(len(asked), len(won))
        if decision.action == "promoted":
            won.add(decision.key)
    return Look(len(asked) + 1, len(won))


def reserved(row: Row, share: float) -> bool:
    """Whether an item is kept back: by its group, so that no image is in both parts."""
    digest = hashlib.sha256(f"reserve {row['group_id']}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def looked(decision: Decision) -> bool:
    """Whether a decision was made on evidence."""
    old = decision.format == BEFORE_LOOKS and bool(decision.checks)
    return old or decision.look is not None
