"""From what people call a model to where it is: the one place that reads such names.

`base` is a special case: where two models are named it is the base of the other one, where one is
named alone it is the preset's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.chat import Chat
from infra.places import exists
from infra.registry import resolve_model
from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.errors import ConfigError, DataError
from schemas.presets import Parameters, resolve
from tasks.answer import TRAINED, base_of
from tasks.base_model import base_model

BASE, ANSWERS, ENDPOINT = "base", "answers:", ("http://", "https://")
SETTINGS, MANIFEST, BASE_STEP = "config.json", "manifest.json", "base_model"
SHORT = 10  # letters of a fingerprint, as people compare it


@dataclass(frozen=True)
class Named:
    """A model that was named: of artifacts, folder, endpoint and file one kind is there.

    Attributes:
        name: for people: as it was called, or short for an address.
        base: the base model, on which `model` was trained or which answers by itself.
        model: a trained stage.
        folder: a Hugging Face model's.
        endpoint: `https://host/v1#model`.
        answers: a file of answers that were given before.
    """

    name: str
    base: Artifact | None = None
    model: Artifact | None = None
    folder: str = ""
    endpoint: str = ""
    answers: str = ""


def find_model(name: str, *, base: Callable[[], Named] | None = None) -> Named:
    """The model of that name.

    Args:
        name: a registered model (alias or version), the address of a stage1, stage2 or base_model
            artifact, a Hugging Face folder, `https://host/v1#model`, `answers:FILE`, or `base`.
        base: what is meant by `base` here; it is called for that name only.

    Raises:
        ConfigError: no such model, an artifact that does not answer, an endpoint that is none.
        DataError: no such file of answers.
        StorageError: the artifact is not there.
    """
    if name == BASE and base is not None:
        return base()
    if name.startswith(ENDPOINT):
        return Named(Chat(name).model, endpoint=name)
    if name.startswith(ANSWERS):
        return _answers(name.removeprefix(ANSWERS))
    if _is_folder(name):
        return Named(Path(name).resolve().name, folder=name)
    artifact = open_artifact(resolve_model(name))
    # An address as people compare it; a registered name as it was given.
    told = f"{artifact.step} {artifact.fingerprint[:SHORT]}" if "/" in name else name
    if artifact.step == BASE_STEP:
        return Named(told, base=artifact)
    if artifact.step not in TRAINED:
        raise ConfigError(
            f"{name!r} is an artifact of step {artifact.step!r}, which does not answer: give "
            f"one of {', '.join((*TRAINED, BASE_STEP))}"
        )
    return Named(told, base=base_of(artifact), model=artifact)


def find_pair(names: tuple[str, str]) -> tuple[Named, Named]:
    """Both models; `base` is the base of the other one. Raises as `find_model`."""
    found = {name: find_model(name) for name in names if name != BASE}
    if BASE in names:
        other = next(iter(found.values()), Named(BASE))
        if other.base is None and not other.folder:
            raise ConfigError(
                f"{names[0]!r} against {names[1]!r}: `base` is the base of the other model, which "
                "must be one that lies in a store or a folder"
            )
        found[BASE] = Named(BASE, base=other.base, folder=other.folder)
    return found[names[0]], found[names[1]]


def find_trained(name: str) -> tuple[Artifact, Artifact]:
    """The trained stage of that name and its base; raises as `find_model`."""
    found = find_model(name)
    if found.model is None or found.base is None:
        raise ConfigError(f"{name!r} is no trained stage: give one of {' or '.join(TRAINED)}")
    return found.model, found.base


def base_of_preset(preset: str, *, store: Store) -> Named:
    """What `base` is where no other model is named; made in the store if it is not there."""
    return Named(BASE, base=base_model(resolve(Parameters(preset=preset)).base, store=store))


def _answers(file: str) -> Named:
    if not exists(file):
        raise DataError(f"the file of answers {file!r} does not exist; correct {ANSWERS}...")
    return Named("given answers", answers=file)


def _is_folder(name: str) -> bool:
    """Whether it is a folder with a Hugging Face model; ConfigError for a path that holds none."""
    folder = Path(name)
    if (folder / SETTINGS).is_file():
        return True
    # A word that is also a folder's name may still be that of a registered model.
    if "/" in name and folder.is_dir() and not (folder / MANIFEST).exists():
        raise ConfigError(f"{name!r} holds no {SETTINGS}: give a Hugging Face model's folder")
    return False
