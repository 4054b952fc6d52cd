"""From what people call a model to its judged answers on the items of a comparison."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.registry import resolve_model
from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.config import BaseConfig, EncodeConfig, EvaluateConfig
from schemas.errors import ConfigError, StorageError
from tasks.answer import TRAINED, base_of
from tasks.base_model import base_model
from tasks.compare.endpoint import ask_endpoint
from tasks.encode import encode
from tasks.evaluate import evaluate

Do = Callable[..., Artifact]
SETTINGS, BASE = "config.json", "base_model"
SHORT, OWN_BASE = 10, "base"


@dataclass(frozen=True)
class Side:
    """A model under comparison: trained here, a base or folder by itself, or behind an endpoint."""

    name: str
    base: Artifact | None = None
    model: Artifact | None = None
    endpoint: str = ""


@dataclass(frozen=True)
class Asking:
    """How both sides are asked, and where everything lies."""

    evaluate: EvaluateConfig
    encode: EncodeConfig
    labelled: Artifact
    store: Store
    do: Do


def find_sides(names: tuple[str, str], *, store: Store) -> tuple[Side, Side]:
    """Both models; `base` is the base of the other one.

    Raises:
        ConfigError: no such models, or `base` of one that has none.
        StorageError: an artifact is not there.
    """
    found = {name: find_side(name, store=store) for name in names if name != OWN_BASE}
    if OWN_BASE in names:
        base = next((side.base for side in found.values()), None)
        if base is None:
            raise ConfigError(
                f"{names[0]!r} against {names[1]!r}: `base` is the base of the other model, which "
                "must be one that lies in a store"
            )
        found[OWN_BASE] = Side(OWN_BASE, base=base)
    return found[names[0]], found[names[1]]


def find_side(name: str, *, store: Store) -> Side:
    """The model of that name.

    Args:
        name: a registered model (alias or version), the address of a stage1, stage2 or base_model
            artifact, a Hugging Face folder, or `https://host/v1#model`.
        store: where a folder's weights are kept.

    Raises:
        ConfigError: no such model, or an artifact that answers nothing.
        StorageError: the artifact is not there.
    """
    if name.startswith(("http://", "https://")):
        return Side(name.partition("#")[2] or name, endpoint=name)
    if Path(name).is_dir() and not (Path(name) / "manifest.json").exists():
        if not (Path(name) / SETTINGS).is_file():
            raise ConfigError(f"{name!r} holds no {SETTINGS}: give a Hugging Face model's folder")
        folder = base_model(BaseConfig(kind="pretrained", name=name), store=store)
        return Side(Path(name).resolve().name, base=folder)
    artifact = open_artifact(resolve_model(name))
    # An address as people compare it; a registered name as it was given.
    told = f"{artifact.step} {artifact.fingerprint[:SHORT]}" if "/" in name else name
    if artifact.step == BASE:
        return Side(told, base=artifact)
    if artifact.step not in TRAINED:
        raise ConfigError(
            f"{name!r} is an artifact of step {artifact.step!r}, which does not answer: give "
            f"one of {', '.join((*TRAINED, BASE))}"
        )
    return Side(told, base=base_of(artifact), model=artifact)


def chosen_items(address: str, sides: Sequence[Side]) -> Artifact | None:
    """The labelled snapshot of the items: as named, or what the last of the sides was trained on.

    None where neither says one.

    Raises:
        ConfigError: the address is not that of a labelled snapshot.
    """
    if address:
        found = open_artifact(address)
        if found.step != "validate":
            raise ConfigError(
                f"--items {address!r} is an artifact of step {found.step!r}: give a labelled "
                "snapshot, of step validate"
            )
        return found
    for side in reversed(sides):
        if side.model is not None:
            root = side.model.uri.rsplit("/", 2)[0]
            parents = Store(root).manifest(side.model).parents
            if "labelled" in parents:
                return open_artifact(f"{root}/{parents['labelled']}")
    return None


def answered(side: Side, asking: Asking) -> Artifact:
    """The side's judged answers to the test split; from the store where it was asked before.

    Raises:
        DataError: no test items.
        ConfigError, ServerError: an endpoint that is none, or does not answer.
    """
    labelled, store, do = asking.labelled, asking.store, asking.do
    name, samples = f"evaluate {side.name}", samples_of(labelled)
    if side.endpoint:
        asked: dict[str, Any] = {"labelled": labelled, "samples": samples, "store": store}
        return do(name, ask_endpoint, asking.evaluate, side.endpoint, **asked)
    if side.base is None:
        raise ConfigError(f"{side.name!r} has no base model to answer with")
    features = do("encode", encode, asking.encode, labelled, samples, side.base, store=store)
    arm = side.model.step if side.model else "base"
    return do(
        name, evaluate, asking.evaluate, arm, side.base, labelled, features,
        store=store, model=side.model,
    )  # fmt: skip


def samples_of(labelled: Artifact) -> Artifact:
    """The snapshot that was labelled, which has the images; StorageError if it is gone."""
    root = labelled.uri.rsplit("/", 2)[0]
    parents = Store(root).manifest(labelled).parents
    if "samples" not in parents:
        raise StorageError(f"{labelled.uri} does not name the snapshot that it labels")
    return open_artifact(f"{root}/{parents['samples']}")
