"""Answer: one image and one question through a published artifact."""

from pathlib import Path
from typing import Any

from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.errors import ConfigError, DataError
from tasks.base_model import FOLDER

TRAINED = ("stage1", "stage2")


def answer_one(uri: str, image: Path, question: str, *, max_new_tokens: int) -> dict[str, Any]:
    """Verdict, probabilities, action and answer for one image file.

    Raises:
        ConfigError: the address is not that of a trained stage.
        DataError: the file is no image.
    """
    from PIL import Image

    from tasks.ingest.images import FAULTS

    artifact = open_artifact(uri)
    if artifact.step not in TRAINED:
        raise ConfigError(
            f"{uri} is an artifact of step {artifact.step!r}; give one of {' or '.join(TRAINED)}"
        )
    try:
        picture = Image.open(image).convert("RGB")
    except (*FAULTS, Image.DecompressionBombError) as error:
        raise DataError(
            f"{str(image)!r} is not a readable image: {error}; give a whole image file"
        ) from error
    found = _guarded(artifact, [picture], [question], max_new_tokens)
    verdict = found.verdict
    return {
        "verdict": f"{verdict.type}, level {verdict.level}" if verdict.flagged else "clean",
        "risk": round(verdict.risk, 4),
        "types": {name: round(p, 4) for name, p in verdict.type_probs.items()},
        "levels": {name: round(p, 4) for name, p in verdict.level_probs.items()},
        "action": verdict.action,
        "answer": found.text,
    }


def _guarded(artifact: Artifact, images: list[Any], questions: list[str], longest: int) -> Any:
    from model.backbone import Backbone
    from tasks.evaluate.arms import open_guarded

    root = artifact.uri.rsplit("/", 2)[0]
    store = Store(root)
    base = open_artifact(f"{root}/{store.manifest(artifact).parents['base']}")
    backbone = Backbone.load(str(store.local(base) / FOLDER))
    guarded, intervention = open_guarded(store.local(artifact) / FOLDER, backbone)
    (answer,) = guarded.answer(images, questions, intervention=intervention, max_new_tokens=longest)
    return answer
