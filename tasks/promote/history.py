"""What the decisions say: who is champion, who was before, who was sent back."""

from dataclasses import dataclass

from infra.decisions import read_decisions
from schemas.decision import Decision, ModelRef

FIRST = "first"


@dataclass(frozen=True)
class History:
    """All decisions of a root, in order. A promotion puts a champion on a pile, a rollback takes
    one off: what lies on top is the champion, what lies below it the previous one.
    """

    decisions: tuple[Decision, ...]

    @classmethod
    def read(cls, root: str) -> "History":
        """The decisions that lie in a root."""
        return cls(tuple(read_decisions(root)))

    def and_then(self, decision: Decision) -> "History":
        """The history with one more decision."""
        return History((*self.decisions, decision))

    @property
    def champions(self) -> list[ModelRef]:
        """The pile, the champion last."""
        pile: list[ModelRef] = []
        for decision in self.decisions:
            if decision.action == "promoted":
                pile.append(decision.candidate)
            elif decision.action == "rolled_back":
                pile.pop()
        return pile

    @property
    def champion(self) -> ModelRef | None:
        """The model in use."""
        return next(reversed(self.champions), None)

    @property
    def previous(self) -> ModelRef | None:
        """The model that a rollback brings back."""
        pile = self.champions
        return pile[-2] if len(pile) > 1 else None

    @property
    def next(self) -> int:
        """The number of the next decision."""
        return len(self.decisions) + 1

    def anchor(self, name: str) -> ModelRef | None:
        """The promoted model of that version or fingerprint, or the `first`; None if none is."""
        for made in (d.candidate for d in self.decisions if d.action == "promoted"):
            if name in (FIRST, made.fingerprint, str(made.version)):
                return made
        return None

    def promoted(self) -> set[str]:
        """Fingerprints of all models that were ever champion."""
        return {d.candidate.fingerprint for d in self.decisions if d.action == "promoted"}

    def sent_back(self, fingerprint: str) -> Decision | None:
        """The rollback that took this model off, unless it was promoted again since."""
        for decision in reversed(self.decisions):
            if decision.action == "promoted" and decision.candidate.fingerprint == fingerprint:
                return None
            gone = decision.reference.fingerprint
            if decision.action == "rolled_back" and gone == fingerprint:
                return decision
        return None

    def last_promotion(self, fingerprint: str) -> Decision:
        """The decision that made a model champion, the latest one."""
        return next(
            d
            for d in reversed(self.decisions)
            if d.action == "promoted" and d.candidate.fingerprint == fingerprint
        )

    def same(self, decision: Decision) -> Decision | None:
        """An earlier refusal that says the same, if the champion has not changed since."""
        if decision.action != "refused":
            return None
        for earlier in reversed(self.decisions):
            if earlier.action != "refused":
                return None
            if earlier.key == decision.key:
                told = (earlier.checks, earlier.reasons)
                return earlier if told == (decision.checks, decision.reasons) else None
        return None
