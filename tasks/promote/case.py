"""One candidate before the gate: objections, opponents, evidence, the verdict."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra.fingerprint import content_hash
from infra.provenance import provenance
from infra.registry import Registry
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import Stage
from schemas.decision import Decision, ModelRef
from schemas.errors import StorageError
from schemas.gate import GateConfig
from tasks.encode import encode
from tasks.evaluate import evaluate
from tasks.promote.checks import ANCHOR
from tasks.promote.evidence import Arm, Evidence, gather, hiding
from tasks.promote.history import History
from tasks.promote.inputs import PromoteInputs
from tasks.promote.overlap import same_budget
from tasks.promote.records import known, stranger
from tasks.promote.spending import Look, next_look
from tasks.promote.stages import Weighed, weigh

CANDIDATE, BASE, CHAMPION = "candidate", "base", "champion"


def now() -> str:
    """The time of a decision."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Case:
    """A candidate, what it must show as the best of those `tried`, and where everything lies."""

    gate: GateConfig
    inputs: PromoteInputs
    store: Store
    registry: Registry
    again: bool
    tried: int = 1

    def decide(self, history: History) -> Decision:
        """The decision, without a number; nothing is written but a champion's evaluation."""
        champion, model = history.champion, self.inputs.model
        if champion and champion.fingerprint == model.fingerprint:
            return self._already(history)
        against = CHAMPION if champion else BASE
        reasons = self._objections(history)
        evidence, found = Evidence(reasons=reasons), Weighed(())
        if not reasons:
            evidence = self._evidence(history)
        if not evidence.reasons:
            mine, *others = evidence.rows
            opponents = {name: evidence.rows[name] for name in others}
            look = self._look(history, evidence)
            found = weigh(
                evidence.rows[mine], opponents, against=against, gate=self.gate, look=look
            )
        why = evidence.reasons or found.failed
        return Decision(
            number=None,
            time=now(),
            action="refused" if why else "promoted",
            candidate=known(self.registry, model),
            reference=known(self.registry, champion or self.inputs.base),
            opponent=against,
            gate=content_hash(self.gate),
            items=evidence.items,
            evaluations=evidence.evaluations,
            checks=found.checks,
            reasons=(why or (found.checks[0].reason,)) + self._chosen(),
            look=found.look,
            alpha=found.alpha,
            commit=provenance()["commit"],
        )

    def _look(self, history: History, evidence: Evidence) -> Look:
        decisions, items, rows = history.decisions, evidence.items, evidence.rows[CANDIDATE]
        sets = same_budget(decisions, items, rows, store=self.store)
        ends = (self.inputs.model, history.champion or self.inputs.base)
        asked = (*(end.fingerprint for end in ends), content_hash(self.gate), items)
        return next_look(decisions, (*asked, *evidence.evaluations), sets=sets)

    def _chosen(self) -> tuple[str, ...]:
        if self.tried == 1:
            return ()
        return (
            f"the best of {self.tried} candidates compared on these items: alpha is "
            f"{self.gate.alpha * self.tried:g} / {self.tried}",
        )

    def _already(self, history: History) -> Decision:
        made = history.last_promotion(self.inputs.model.fingerprint)
        candidate = known(self.registry, made.candidate)
        told: dict[str, Any] = {
            "action": "already_champion",
            "candidate": candidate,
            "reasons": (f"already champion, version {candidate.version}",),
            "repeated": True,
        }
        return Decision.model_validate({**dict(made), **told})

    def _objections(self, history: History) -> tuple[str, ...]:
        """What speaks against the candidate before any evidence is looked at."""
        model, reasons = self.inputs.model, []
        if model.step not in tuple(Stage):
            stages = " or ".join(Stage)
            reasons.append(f"the candidate is an artifact of step {model.step!r}, not of {stages}")
        if not self.again and (back := history.sent_back(model.fingerprint)):
            reasons.append(
                f"the candidate was champion and was rolled back by decision {back.number}: train "
                "another one, or give --again"
            )
        # A champion would be asked by these settings, which may take hours.
        reasons += hiding(self.inputs.evaluate.model_dump(), self.gate)
        pinned = self.gate.anchor
        if history.champion and history.anchor(pinned) is None:
            reasons.append(
                f"the anchor {pinned!r} was never promoted in {self.store.root}: name `first`, or "
                "the version or fingerprint of a model that was (psavlm registry)"
            )
        if other := stranger(self.registry, history, self.store):
            reasons.append(
                f"the registry's champion, version {other.version}, was decided in {other.root}: "
                "give that root, or a registry of your own by MLFLOW_TRACKING_URI"
            )
        return tuple(reasons)

    def _evidence(self, history: History) -> Evidence:
        inputs = self.inputs
        arms = {
            CANDIDATE: Arm(inputs.model, inputs.base, inputs.evaluation),
            BASE: Arm(inputs.base, inputs.base, inputs.base_evaluation),
        }
        for name, made in self._others(history).items():
            try:
                arms[name] = self._asked(made)
            except StorageError as error:
                return Evidence(reasons=(f"unverified artifact: the {name}: {error}",))
        return gather(arms, gate=self.gate, store=self.store)

    def _others(self, history: History) -> dict[str, ModelRef]:
        """The champion, and the anchor where it is another one."""
        champion, anchor = history.champion, history.anchor(self.gate.anchor)
        if champion is None:
            return {}
        known = (champion.fingerprint, self.inputs.model.fingerprint)
        if anchor is None or anchor.fingerprint in known:
            return {CHAMPION: champion}
        return {CHAMPION: champion, ANCHOR: anchor}

    def _asked(self, made: ModelRef) -> Arm:
        """A former candidate, asked the candidate's items; cached by the store."""
        inputs, store = self.inputs, self.store
        model = self._there(made.step, made.fingerprint)
        base = self._there(*store.manifest(model).parents[BASE].split("/"))
        features = inputs.features
        if base.fingerprint != inputs.base.fingerprint:
            features = encode(inputs.encode, inputs.labelled, inputs.samples, base, store=store)
        evaluation = evaluate(
            inputs.evaluate,
            made.step,
            base,
            inputs.labelled,
            features,
            store=store,
            model=model,
        )
        return Arm(model, base, evaluation)

    def _there(self, step: str, fingerprint: str) -> Artifact:
        found = self.store.find(step, fingerprint)
        if found is None:
            raise StorageError(
                f"no sound artifact {step}/{fingerprint} in {self.store.root}: bring it back, or "
                "run psavlm rollback"
            )
        return found
