"""From what people call a model to its judged answers on the items of a comparison."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.config import BaseConfig, EncodeConfig, EvaluateConfig
from schemas.errors import ConfigError, StorageError
from tasks.base_model import base_model
from tasks.compare.outside import ask_outside
from tasks.encode import encode
from tasks.evaluate import evaluate
from tasks.named import Named, find_pair
from tasks.respond import responder_of

Do = Callable[..., Artifact]


@dataclass(frozen=True)
class Asking:
    """How both sides are asked, and where everything lies."""

    evaluate: EvaluateConfig
    encode: EncodeConfig
    labelled: Artifact
    store: Store
    do: Do


def find_sides(names: tuple[str, str], *, store: Store) -> tuple[Named, Named]:
    """Both models of a comparison, all that they need in a store; raises as tasks/named.py.

    Args:
        names: as people call them; `base` is the base of the other one.
        store: where a folder's weights are kept.
    """
    old, new = find_pair(names)
    return _kept(old, store), _kept(new, store)


def _kept(side: Named, store: Store) -> Named:
    """The side, a folder of weights as the artifact that features are encoded with."""
    if not side.folder:
        return side
    base = base_model(BaseConfig(kind="pretrained", name=side.folder), store=store)
    return replace(side, base=base, folder="")


def chosen_items(address: str, sides: Sequence[Named]) -> Artifact | None:
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


def learnt_from(side: Named) -> Artifact | None:
    """The labelled snapshot that a side was trained on; None where it names none, or it is gone."""
    with suppress(StorageError):
        return chosen_items("", [side])
    return None


def answered(side: Named, asking: Asking) -> Artifact:
    """The side's judged answers to the test split; from the store where it was asked before.

    Raises:
        DataError: no test items, or too few of them answered.
        ConfigError, ServerError: an endpoint that knows neither key nor model, or does not answer.
    """
    labelled, store, do = asking.labelled, asking.store, asking.do
    name, samples = f"evaluate {side.name}", samples_of(labelled)
    if side.base is None:
        responder = responder_of(side)
        return do(
            name, ask_outside, asking.evaluate, responder,
            labelled=labelled, samples=samples, store=store,
        )  # fmt: skip
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
