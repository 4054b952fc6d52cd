"""Promote: compare the candidate with the champion on the same items, decide, write it down.

Decisions are the truth, one write-once object each; versions and aliases in the registry follow
from them, and are brought in line at the start and at the end of every call, so that a process
may die anywhere. Promotion is never cached: it looks at the evidence every time.
"""

from infra.decisions import add_decision, deciding
from infra.registry import Registry
from infra.store import Store
from schemas.decision import Decision, Version
from schemas.errors import StorageError
from schemas.gate import GateConfig
from tasks.promote.case import Case
from tasks.promote.history import History
from tasks.promote.inputs import PromoteInputs
from tasks.promote.records import follow, register, stranger

TRIES = 5


def promote(
    gate: GateConfig,
    inputs: PromoteInputs,
    *,
    store: Store,
    dry_run: bool = False,
    again: bool = False,
    tried: int = 1,
) -> Decision:
    """Make the candidate champion if it is better; a refusal is a decision too, with its reasons.

    Args:
        gate: what must be shown.
        inputs: the candidate and the evidence.
        store: where artifacts and decisions lie.
        dry_run: write neither a decision nor to the registry.
        again: let a model that a rollback took off stand again.
        tried: candidates that were compared on these items before this one was chosen: alpha is
            divided by their number.

    Raises:
        StorageError: the store or the registry cannot be used.
    """
    registry = Registry()
    case = Case(gate.for_best_of(tried), inputs, store, registry, again, tried)
    if dry_run:
        return case.decide(History.read(store.root))
    registry.check(store.root)
    with deciding(store.root):
        for _ in range(TRIES):
            history = History.read(store.root)
            _follow(registry, history, store)
            decision = _numbered(case, case.decide(history), history)
            if decision.repeated:
                return decision
            if add_decision(store.root, decision):
                _follow(registry, history.and_then(decision), store)
                return decision
    raise StorageError(f"others keep deciding in {store.root}; run psavlm promote again")


def register_candidate(inputs: PromoteInputs, *, store: Store) -> Version:
    """Put the model into the registry as `candidate`, without asking the gate.

    Raises:
        StorageError: its files are damaged, or the store or the registry cannot be used.
    """
    registry = Registry()
    registry.check(store.root)
    store.verify(inputs.model)
    with deciding(store.root):
        return register(registry, inputs, store=store)


def _numbered(case: Case, decision: Decision, history: History) -> Decision:
    """The decision as it is to be written, with the candidate's version; or the same as before."""
    if decision.action == "already_champion":
        return decision
    if same := history.same(decision):
        return Decision.model_validate({**dict(same), "repeated": True})
    candidate = decision.candidate
    if decision.items:  # its files are whole
        version = register(case.registry, case.inputs, store=case.store)
        candidate = candidate.at(version.version)
    return Decision.model_validate(
        {**dict(decision), "number": history.next, "candidate": candidate}
    )


def _follow(registry: Registry, history: History, store: Store) -> None:
    # What another root has made champion is not ours to move.
    if stranger(registry, history, store) is None:
        follow(registry, history, store=store)
