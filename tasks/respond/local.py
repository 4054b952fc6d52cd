"""A model in this process: images go through its own encoder, answers are greedy or ranked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.policies import OperatorPolicy
from tasks.respond.responder import Answering, Ask, Kept, Told

if TYPE_CHECKING:
    from model.features import ImageFeatures


def open_local(
    base: Path,
    model: Path | None = None,
    *,
    half: bool = False,
    policy: OperatorPolicy | None = None,
) -> Answering:
    """A base model's folder, and a trained one's if its guard and adapter shall answer.

    Args:
        base: its folder.
        model: the trained one's.
        half: the base in bfloat16.
        policy: an operator's, over that of the model's card.

    Raises:
        ConfigError: a base without a class here, or one that the trained model does not belong to.
        StorageError: files that cannot be read.
    """
    from tasks.evaluate.arms import bare, open_backbone, open_guarded
    from tasks.respond.ranking import likeliest, option_losses

    backbone = open_backbone(base, half=half)
    guarded = open_guarded(model, backbone, policy=policy) if model else None

    def encode(asks: Sequence[Ask]) -> "list[ImageFeatures | None]":
        given = [ask.picture for ask in asks if ask.picture is not None]
        encoded = iter(backbone.encode_images(given)) if given else iter(())
        return [None if ask.picture is None else next(encoded) for ask in asks]

    def answer(asks: Sequence[Ask], longest: int, kept: Kept) -> None:
        seen, questions = encode(asks), [ask.prompt for ask in asks]
        if asks and asks[0].options:
            for place, ask in enumerate(asks):
                losses = option_losses(backbone, guarded, seen[place], ask.prompt, ask.options)
                kept(place, Told(likeliest(losses), losses=losses))
            return
        if guarded is None:
            found = bare(backbone, seen, questions, longest)
        else:
            vlm, intervention = guarded
            found = vlm.answer_features(
                seen, questions, intervention=intervention, max_new_tokens=longest
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
