"""What all judges are: from an item and an answer to a verdict, of one kind each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from infra.completion import FILTERED
from tasks.benchmarks.item import Item, Verdict

Kind = Literal["exact", "phrases", "endpoint"]
UNSCORED = "unscored"


@dataclass(frozen=True)
class Given:
    """An answer to an item, and the encoded bytes of its image if there is one."""

    item: Item
    answer: str
    image: bytes | None = None


@dataclass(frozen=True)
class Judgement:
    """A verdict, and the tokens that were paid for it."""

    verdict: Verdict
    tokens_in: int = 0
    tokens_out: int = 0


# A withheld answer is a refusal, and the filter is what tells so.
WITHHELD = Verdict("refused", refused=True, phrase=FILTERED)


class Judge(Protocol):
    """One way to judge; a report has one of them.

    `name` tells it from all others, its version and model included; `identity` is all that its
    verdicts depend on.
    """

    name: str
    kind: Kind
    identity: dict[str, str]

    def judge(self, given: Sequence[Given]) -> list[Judgement]:
        """A judgement of each answer, in their order."""

    def withheld(self, item: Item) -> Verdict:
        """What it makes of an answer that the endpoint's own filter withheld: nobody is asked."""
