"""Answer: one image and one question through a published artifact."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.errors import ConfigError, DataError
from tasks.base_model import FOLDER

if TYPE_CHECKING:
    from PIL.Image import Image

    from model.guard import Answer, GuardedVlm

TRAINED = ("stage1", "stage2")


def answer_one(uri: str, image: Path, question: str, *, max_new_tokens: int) -> dict[str, Any]:
    """Verdict, probabilities, action and answer for one image file.

    Raises:
        ConfigError: the address is not that of a trained stage.
        DataError: the file is no image.
    """
    artifact, picture = trained(uri), read_picture(image)
    guarded, intervention = load_guarded(artifact)
    (found,) = guarded.answer(
        [picture], [question], intervention=intervention, max_new_tokens=max_new_tokens
    )
    return in_words(found)


def trained(uri: str) -> Artifact:
    """The artifact at an address, which must be that of a trained stage; else ConfigError."""
    artifact = open_artifact(uri)
    if artifact.step not in TRAINED:
        raise ConfigError(
            f"{uri} is an artifact of step {artifact.step!r}; give one of {' or '.join(TRAINED)}"
        )
    return artifact


def read_picture(image: Path) -> "Image":
    """An image file as RGB; DataError if it is none."""
    from PIL import Image

    from tasks.decoder.strict import FAULTS

    try:
        return Image.open(image).convert("RGB")
    except (*FAULTS, Image.DecompressionBombError) as error:
        raise DataError(
            f"{str(image)!r} is not a readable image: {error}; give a whole image file"
        ) from error


def load_guarded(artifact: Artifact) -> tuple["GuardedVlm", str]:
    """A trained stage on its own base, and its intervention."""
    from model.backbone import Backbone
    from tasks.evaluate.arms import open_guarded

    store = Store(artifact.uri.rsplit("/", 2)[0])
    backbone = Backbone.load(str(store.local(base_of(artifact)) / FOLDER))
    return open_guarded(store.local(artifact) / FOLDER, backbone)


def base_of(artifact: Artifact) -> Artifact:
    """The base model of a trained stage, which lies in the same root."""
    root = artifact.uri.rsplit("/", 2)[0]
    return open_artifact(f"{root}/{Store(root).manifest(artifact).parents['base']}")


def in_words(found: "Answer") -> dict[str, Any]:
    """What people read of an answer about an image: verdict, probabilities, action, text."""
    verdict = found.verdict
    return {
        "verdict": f"{verdict.type}, level {verdict.level}" if verdict.flagged else "clean",
        "risk": round(verdict.risk, 4),
        "types": {name: round(p, 4) for name, p in verdict.type_probs.items()},
        "levels": {name: round(p, 4) for name, p in verdict.level_probs.items()},
        "action": verdict.action,
        "answer": found.text,
    }
