"""What a step would take in time and room, by the newest comparable artifact of the same root.

Seconds grow with the work (rows, or items seen in training), bytes with the rows. Nothing is
guessed: where nothing comparable has run here, nothing is told.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from infra.planning import PlanningStore
from schemas.artifact import Manifest
from tasks.plan.rows import COUNTED, counted

Settings = Mapping[str, Any]
# Settings that change what one row or step costs: artifacts that differ in them do not compare.
DECIDES = {
    "tiny_world": ("difficulty",),
    "base_model": ("kind", "name", "revision", "width", "layers", "heads"),
    "encode": ("dtype", "precision", "cache"),
    "evaluate": ("arm",),
    "benchmark": ("name", "limit", "rule"),
}
NEW = ("decoded", "encoded")
# Parents whose such settings count too.
KIN = ("world", "base")


class Cost(NamedTuple):
    """Seconds and bytes of a step, and the address of the artifact they are scaled from."""

    seconds: float | None = None
    bytes: int | None = None
    measured: str = ""


def samples(config: Settings) -> int:
    """Items that a stage sees: steps times batch over its parts."""
    return sum(part["steps"] * part["global_batch"] for part in config["parts"].values())


def _base_steps(config: Settings) -> int:
    if config["kind"] != "train":
        return 1
    return int(config["vision_steps"] + config["language_steps"])


WORK: dict[str, Callable[[Settings], int]] = {
    "base_model": _base_steps,
    "stage1": samples,
    "stage2": samples,
}


def costs(folder: str, rows: int | None, *, store: PlanningStore) -> Cost:
    """The costs of a planned step.

    Args:
        folder: its address within the root, as the store has drafted it.
        rows: how many it will handle; None if not known.
        store: where earlier artifacts lie.
    """
    draft = store.drafts[folder]
    step, work = draft["step"], _work(draft["step"], draft["config"], rows)
    like = _traits(step, draft["config"], draft["parents"], store)
    for made in store.finished(step):
        seconds = made.provenance.get("seconds")
        before = _work(step, made.config, counted(step, made.counts))
        if seconds is None or not work or not before or not _all_new(made.counts):
            continue
        if _traits(step, made.config, made.parents, store) == like:
            size = sum(entry.bytes for entry in made.files) + made.counts.get("new_bytes", 0)
            grown = work / before if step in COUNTED else 1
            uri = f"{store.root}/{step}/{made.fingerprint}"
            return Cost(round(seconds * work / before, 1), round(size * grown), uri)
    return Cost()


def _all_new(counts: Mapping[str, int]) -> bool:
    """Whether nothing of a step's work lay in the root before: else it took less than it is."""
    return all(counts.get(name, counts.get("images")) == counts.get("images") for name in NEW)


def _work(step: str, config: Settings, rows: int | None) -> int | None:
    if step in COUNTED:
        return rows
    return WORK[step](config) if step in WORK else 1


def _traits(
    step: str, config: Settings, parents: Mapping[str, str], store: PlanningStore
) -> dict[str, Any]:
    """The settings that decide what a row or step costs, the kin's among them."""
    traits = {name: config.get(name) for name in DECIDES.get(step, ())}
    for role in KIN:
        if address := parents.get(role):
            kin = address.partition("/")[0]
            settings = _settings(address, store)
            traits |= {f"{role}.{name}": settings.get(name) for name in DECIDES[kin]}
    return traits


def _settings(address: str, store: PlanningStore) -> Settings:
    """The config of an artifact, planned or there; empty if its manifest is gone."""
    if draft := store.drafts.get(address):
        settings: Settings = draft["config"]
        return settings
    made: Manifest | None = store.manifest_at(address)
    return made.config if made else {}
