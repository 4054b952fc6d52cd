"""A model in this process: images go through its own encoder, answers are greedy."""

from collections.abc import Sequence
from pathlib import Path

from tasks.respond.responder import Answering, Ask, Kept, Told


def open_local(base: Path, model: Path | None = None) -> Answering:
    """A base model's folder, and a trained one's if its guard and adapter shall answer.

    Raises:
        ConfigError: a base without a class here, or one that the trained model does not belong to.
        StorageError: files that cannot be read.
    """
    from tasks.evaluate.arms import bare, open_backbone, open_guarded

    backbone = open_backbone(base)
    guarded = open_guarded(model, backbone) if model else None

    def answer(asks: Sequence[Ask], longest: int, kept: Kept) -> None:
        pictures, questions = [ask.picture for ask in asks], [ask.prompt for ask in asks]
        if guarded is None:
            given = [picture for picture in pictures if picture is not None]
            encoded = iter(backbone.encode_images(given)) if given else iter(())
            seen = [None if picture is None else next(encoded) for picture in pictures]
            found = bare(backbone, seen, questions, longest)
        else:
            vlm, intervention = guarded
            found = vlm.answer(
                pictures, questions, intervention=intervention, max_new_tokens=longest
            )
        for place, one in enumerate(found):
            kept(place, _told(one.text, one.verdict))

    return answer


def _told(text: str, verdict: object) -> Told:
    from model.guard import Verdict

    if not isinstance(verdict, Verdict):
        return Told(text)
    return Told(
        text,
        flagged=verdict.flagged,
        risk=verdict.risk,
        types=dict(verdict.type_probs),
        levels=dict(verdict.level_probs),
    )
