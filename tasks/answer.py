"""Answer: one image and one question through a published artifact."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.errors import ConfigError, DataError
from schemas.policies import load_policy
from schemas.taxonomy import CLEAN
from tasks.base_model import FOLDER

if TYPE_CHECKING:
    from PIL.Image import Image

    from model.guard import Answer, GuardedVlm, Verdict

TRAINED = ("stage1", "stage2")


def answer_one(
    uri: str,
    image: Path,
    question: str,
    *,
    policy: str = "",
    force: str = "",
    max_new_tokens: int = 64,
) -> dict[str, Any]:
    """The model, and its verdict, probabilities, action and answer for one image file.

    Args:
        uri: address of a trained stage.
        image: an image file.
        question: what is asked.
        policy: an operator's policy by name or path; empty is the model's own.
        force: `type:level`, or `clean`: a concept that takes the place of what the guard sees.
        max_new_tokens: the longest answer.

    Raises:
        ConfigError: nothing is asked, the address is not that of a trained stage, or no such
            policy or concept.
        DataError: the file is no image.
    """
    check_question(question)
    artifact, picture = trained(uri), read_picture(image)
    guarded, intervention = load_guarded(artifact, policy=policy)
    verdicts = [_forced(force, guarded)] if force else None
    (found,) = guarded.answer(
        [picture],
        [question],
        intervention=intervention,
        verdicts=verdicts,
        max_new_tokens=max_new_tokens,
    )
    return {"model": f"{artifact.step}/{artifact.fingerprint}", **in_words(found)}


def check_question(question: str) -> None:
    """ConfigError for a question without a word."""
    if not question.strip():
        raise ConfigError(f"the question {question!r} is empty: give one, such as 'what is this ?'")


def _forced(concept: str, guarded: "GuardedVlm") -> "Verdict":
    from model.guard import forced

    name, _, level = concept.partition(":")
    number = level or ("0" if name == CLEAN else "")
    if not number.isdecimal():
        raise ConfigError(
            f"--force {concept!r}: give type:level, such as privacy:3, or clean; types: "
            f"{', '.join(guarded.taxonomy.type_ids)}"
        )
    return forced(name, int(number), taxonomy=guarded.taxonomy, policy=guarded.policy)


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


def load_guarded(artifact: Artifact, *, policy: str = "") -> tuple["GuardedVlm", str]:
    """A trained stage on its own base, under an operator's policy if one is named; what it does."""
    from model.backbone import Backbone
    from model.checkpoint import load_card
    from tasks.evaluate.arms import open_guarded

    store = Store(artifact.uri.rsplit("/", 2)[0])
    folder = store.local(artifact) / FOLDER
    by = load_policy(policy, taxonomy=load_card(folder).taxonomy) if policy else None
    backbone = Backbone.load(str(store.local(base_of(artifact)) / FOLDER))
    return open_guarded(folder, backbone, policy=by)


def base_of(artifact: Artifact) -> Artifact:
    """The base model of a trained stage, which lies in the same root."""
    root = artifact.uri.rsplit("/", 2)[0]
    return open_artifact(f"{root}/{Store(root).manifest(artifact).parents['base']}")


def in_words(found: "Answer") -> dict[str, Any]:
    """What people read of an answer about an image: verdict, probabilities, action, text.

    A model without a safety head has only its text.
    """
    verdict = found.verdict
    if verdict is None:
        return {"verdict": "none", "answer": found.text}
    return {
        "verdict": f"{verdict.type}, level {verdict.level}" if verdict.flagged else "clean",
        "risk": round(verdict.risk, 4),
        "types": {name: round(p, 4) for name, p in verdict.type_probs.items()},
        "levels": {name: round(p, 4) for name, p in verdict.level_probs.items()},
        "action": verdict.action,
        "answer": found.text,
    }
