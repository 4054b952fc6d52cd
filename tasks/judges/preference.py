"""A judging model that compares an answer with a stored one: which of the two is better?"""

from dataclasses import dataclass
from hashlib import sha256

from infra.completion import Reply
from tasks.benchmarks.item import Item, Verdict
from tasks.judges.endpoint import EndpointJudge
from tasks.judges.judge import UNSCORED, WITHHELD, Given

# The model's answer is the better one, or the stored one is.
PREFERRED, OTHER = "preferred", "other_preferred"


@dataclass(frozen=True)
class PreferenceJudge(EndpointJudge):
    """Compares an answer with its item's target.

    The answer stands first, or, if the judge `shuffles`, where the item's hash puts it: a judging
    model may favour a place.
    """

    shuffles: bool = False

    def withheld(self, item: Item) -> Verdict:
        """Not preferred: nothing was answered."""
        return Verdict(OTHER, right=False, phrase=WITHHELD.phrase)

    def prompt(self, given: Given) -> str:
        """The rubric's question about both answers."""
        pair = (given.answer, given.item.target)
        first, second = pair if self._answer_first(given.item) else pair[::-1]
        return self.rubric.comparison(given.item.prompt, first, second)

    def verdict(self, item: Item, reply: Reply) -> Verdict:
        """Whose answer is named; `unscored` for any other reply."""
        label = None if reply.fault else self.rubric.label(reply.text)
        if label is None:
            return Verdict(UNSCORED, text=reply.fault or reply.text)
        preferred = (label == self.rubric.labels[0]) == self._answer_first(item)
        return Verdict(PREFERRED if preferred else OTHER, right=preferred, text=reply.text)

    def _answer_first(self, item: Item) -> bool:
        return not self.shuffles or sha256(item.id.encode()).digest()[0] % 2 == 0
