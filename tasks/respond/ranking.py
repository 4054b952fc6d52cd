"""The option that a model finds likeliest: each one's mean loss as the answer; the least wins."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from model.backbone import Backbone
from model.batches import PromptBatch, compose
from model.features import ImageFeatures
from model.guard import GuardedVlm
from model.losses import answer_loss
from model.prompts import Prompt, ask
from schemas.samples import Message


@torch.no_grad()
def option_losses(
    backbone: Backbone,
    guarded: tuple[GuardedVlm, str] | None,
    image: ImageFeatures | None,
    question: str,
    options: Mapping[str, str],
) -> dict[str, float]:
    """Nats per token of each option's text, its end included, as the answer to a question.

    Args:
        backbone: the base, with the trained model's adapter if there is one.
        guarded: the trained model with its intervention; None for the base as it is. What the guard
            puts into the prompt stands before every option.
        image: h_o [P, V], or None for text alone.
        question: the bare text, without the options.
        options: letter to text.
    """
    if guarded is None:
        prompts = _answered(ask(question), options)
        projected = None if image is None else backbone.project([image])[0]
        batch = compose(backbone, prompts, images=[projected] * len(prompts), training=True)
    else:
        vlm, intervention = guarded
        (verdict,) = vlm.judge([image], [question])
        told = vlm.prompt(question, verdict, intervention=intervention)
        prompts = _answered(told, options)
        images = [image] * len(prompts)
        batch = vlm.model.compose(images, prompts, use_tokens=True, training=True)
    return dict(zip(options, _losses(backbone, batch), strict=True))


def likeliest(losses: Mapping[str, float]) -> str:
    """The letter of the smallest loss; the first of several."""
    return min(losses, key=lambda letter: losses[letter])


def _answered(prompt: Prompt, options: Mapping[str, str]) -> list[Prompt]:
    return [
        replace(prompt, messages=(*prompt.messages, Message("assistant", text)))
        for text in options.values()
    ]


def _losses(backbone: Backbone, batch: PromptBatch) -> Sequence[float]:
    """The mean cross-entropy of each row's answer."""
    hidden = backbone.hidden(batch.embeds, batch.mask, batch.positions)
    rows = [
        answer_loss(hidden[i : i + 1], batch.labels[i : i + 1], backbone.logits)
        for i in range(len(batch.labels))
    ]
    return [float(total / count.clamp(min=1)) for total, count in rows]
