"""What each told concept adds to an answer: concept tokens taken away one at a time.

The language model is given s_llm + sum_k p_k E_k (METHOD.md section 7.5). Without the term of one
concept the answer that was given is more or less probable; the difference is that concept's part.
"""

from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy

from model.features import ImageFeatures
from model.losses import IGNORED
from model.prompts import Concept, Prompt
from model.psavlm import PsaVlm
from schemas.samples import Message


@torch.no_grad()
def contributions(
    model: PsaVlm, image: ImageFeatures, prompt: Prompt, answer: str
) -> tuple[list[float], list[float]]:
    """The change of the answer's log-probability, in nats, by each type [K] and each level [L].

    Args:
        model: one with concept tokens.
        image: h_o.
        prompt: a question with a concept.
        answer: what was answered; its end is part of it.
    """
    concept = prompt.concept
    assert concept is not None
    told = [concept]
    told += [replace(concept, types=_without(concept.types, k)) for k in range(len(concept.types))]
    told += [
        replace(concept, levels=_without(concept.levels, k)) for k in range(len(concept.levels))
    ]
    whole, *parts = _log_probabilities(model, image, prompt, answer, told)
    added = [whole - part for part in parts]
    return added[: len(concept.types)], added[len(concept.types) :]


def _without(shares: tuple[float, ...], k: int) -> tuple[float, ...]:
    return (*shares[:k], 0.0, *shares[k + 1 :])


def _log_probabilities(
    model: PsaVlm, image: ImageFeatures, prompt: Prompt, answer: str, told: list[Concept]
) -> list[float]:
    messages = (*prompt.messages, Message("assistant", answer))
    prompts = [replace(prompt, messages=messages, concept=concept) for concept in told]
    batch = model.compose([image] * len(told), prompts, use_tokens=True, training=True)
    hidden = model.backbone.hidden(batch.embeds, batch.mask, batch.positions)
    targets = batch.labels[:, 1:]
    taught = targets != IGNORED
    logits = model.backbone.logits(hidden[:, :-1][taught]).float()
    losses = torch.zeros(targets.shape, device=logits.device)
    losses[taught] = cross_entropy(logits, targets[taught], reduction="none")
    return (-losses.sum(1)).tolist()
