"""How an arm answers: the bare base model, or a trained model with its guard."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from model.backbone import Backbone
from model.batches import compose
from model.checkpoint import load_model
from model.features import ImageFeatures
from model.guard import Answer, GuardedVlm
from model.prompts import ask

Respond = Callable[[Sequence[ImageFeatures | None], Sequence[str]], list[Answer]]


def open_arm(base: Path, model: Path | None, *, max_new_tokens: int) -> Respond:
    """A function from features h_o [P, V] and questions to answers."""
    backbone = open_backbone(base)
    if model is None:
        return lambda features, questions: _bare(backbone, features, questions, max_new_tokens)
    guarded, intervention = open_guarded(model, backbone)
    return lambda features, questions: guarded.answer_features(
        features, questions, intervention=intervention, max_new_tokens=max_new_tokens
    )


def open_backbone(base: Path) -> Backbone:
    """The frozen base, on the GPU if there is one."""
    backbone = Backbone.load(str(base))
    backbone.freeze()
    if torch.cuda.is_available():
        backbone.to("cuda")
    return backbone


def open_guarded(model: Path, backbone: Backbone) -> tuple[GuardedVlm, str]:
    """A trained model with taxonomy, hints and policy of its card, and its intervention."""
    trained, card = load_model(model, backbone)
    guarded = GuardedVlm(trained, taxonomy=card.taxonomy, hints=card.hints, policy=card.policy)
    return guarded, card.method.intervention


@torch.no_grad()
def _bare(
    backbone: Backbone,
    features: Sequence[ImageFeatures | None],
    questions: Sequence[str],
    max_new_tokens: int,
) -> list[Answer]:
    images = [None if h is None else backbone.project([h])[0] for h in features]
    batch = compose(backbone, [ask(question) for question in questions], images=images)
    texts = backbone.generate(
        batch.embeds, batch.mask, batch.positions, max_new_tokens=max_new_tokens
    )
    return [Answer(text=text, verdict=None) for text in texts]
