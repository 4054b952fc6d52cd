"""Rollback: the previous champion again, as a decision of its own."""

from infra.decisions import add_decision, deciding
from infra.provenance import provenance
from infra.registry import Registry
from infra.store import Store, open_artifact
from schemas.decision import Decision
from schemas.errors import ConfigError, StorageError
from tasks.promote.case import CHAMPION, now
from tasks.promote.history import History
from tasks.promote.records import follow, known, stranger


def rollback(store: Store) -> Decision:
    """Make the previous champion champion again.

    A rollback that died between its decision and the aliases is finished, not repeated.

    Raises:
        ConfigError: there is no previous champion, or the champion was decided in another root.
        StorageError: the previous champion is damaged; the registry cannot be used.
    """
    registry = Registry()
    registry.check(store.root)
    with deciding(store.root):
        history = History.read(store.root)
        if other := stranger(registry, history, store):
            raise ConfigError(
                f"the registry's champion, version {other.version}, was decided in {other.root}: "
                "give that root, or another registry by MLFLOW_TRACKING_URI"
            )
        unfinished = _unfinished(registry, history)
        follow(registry, history, store=store)
        if unfinished is not None:
            return Decision.model_validate({**dict(unfinished), "repeated": True})
        decision = _decide(registry, history, store)
        if not add_decision(store.root, decision):
            raise StorageError(f"another process has just decided in {store.root}; look again")
        follow(registry, history.and_then(decision), store=store)
    return decision


def _unfinished(registry: Registry, history: History) -> Decision | None:
    """The last decision, if it is a rollback that the registry has not heard of."""
    last = next(reversed(history.decisions), None)
    if last is None or last.action != "rolled_back":
        return None
    # The champion's alias is the last thing that a call moves.
    pointed = registry.find(CHAMPION)
    return None if pointed and pointed.fingerprint == last.candidate.fingerprint else last


def _decide(registry: Registry, history: History, store: Store) -> Decision:
    champion, previous = history.champion, history.previous
    if champion is None or previous is None:
        raise ConfigError(
            f"there is no previous champion in {store.root} to go back to; psavlm registry shows "
            "all decisions"
        )
    store.verify(open_artifact(f"{store.root}/{previous.step}/{previous.fingerprint}"))
    return Decision(
        number=history.next,
        time=now(),
        action="rolled_back",
        candidate=known(registry, previous),
        reference=known(registry, champion),
        opponent=CHAMPION,
        reasons=(f"by hand: back from version {known(registry, champion).version}",),
        commit=provenance()["commit"],
    )
