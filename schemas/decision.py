"""Decisions of the gate, and models as the registry knows them."""

from typing import Literal

from schemas.frozen import Frozen
from schemas.report import Metric

Action = Literal["promoted", "refused", "already_champion", "rolled_back"]
Test = Literal["superior", "not_inferior"]
# Of the items: all of them, those that every candidate is shown to, those that are kept back.
Part = Literal["all", "open", "reserved"]


class ModelRef(Frozen):
    """A model by its artifact; `version` is its number in the registry, if it has one."""

    step: str
    fingerprint: str
    uri: str
    version: int | None = None

    def at(self, version: int) -> "ModelRef":
        """The same model as this version."""
        return ModelRef(step=self.step, fingerprint=self.fingerprint, uri=self.uri, version=version)


class Check(Frozen):
    """One condition: both rates with n and intervals, their difference, and the bar.

    Attributes:
        name: the rate (schemas/report.py), with the opponent: `benign_refused/base`.
        what: the rate in words.
        test: `superior` (p at most the bar, or the interval beyond it) or `not_inferior` (the
            interval within the bar).
        n: items; 0 if none was judged.
        candidate: its rate.
        reference: the opponent's rate on the same items.
        difference: candidate minus opponent.
        low: lower end of the difference's interval, each end at the gate's alpha.
        high: its upper end.
        effect: the design effect; above 1, items that share an image count for less.
        p: of the one-sided exact test, for `superior` without a minimum effect.
        bar: alpha where there is a p, otherwise minimum effect, margin or budget with its sign.
        passed: None where there were too few items to judge.
        reason: in one line, why.
        part: the items that it was asked of.
    """

    name: str
    what: str
    test: Test
    n: int
    candidate: Metric
    reference: Metric
    difference: float
    low: float
    high: float
    effect: float
    p: float | None = None
    bar: float
    passed: bool | None
    reason: str
    part: Part = "all"


class Decision(Frozen):
    """`decisions/<number>.json`: written once, with its evidence; the aliases follow from it.

    A dry run's decision has no number. `repeated` is never stored: it says that the same question
    was asked before and nothing has changed since. `look` counts the looks at these items, of
    which this one was held at `alpha` (tasks/promote/spending.py); both are None where there was
    no evidence to look at. Format 1 had neither. `evaluations` names the candidate's first.
    """

    format: int = 2
    number: int | None
    time: str
    action: Action
    candidate: ModelRef
    reference: ModelRef
    opponent: Literal["base", "champion"]
    gate: str = ""
    items: str = ""
    evaluations: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    reasons: tuple[str, ...] = ()
    look: int | None = None
    alpha: float | None = None
    commit: str | None = None
    repeated: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """What was asked: candidate, opponent, gate, item set and evaluations, by their hashes."""
        asked = (self.candidate.fingerprint, self.reference.fingerprint, self.gate, self.items)
        return *asked, *self.evaluations


class Version(Frozen):
    """One version of the registered model, with the aliases that point to it now."""

    version: int
    fingerprint: str
    uri: str
    step: str
    root: str
    run: str
    created: str
    aliases: tuple[str, ...] = ()
