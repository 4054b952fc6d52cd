"""Where the safety head looks: its attention over image patches and over its own tokens.

The weights are those of the head's forward pass, asked for a second time; no parameter is its own.
Letters as in safety.py; Q is the number of queries, S + P' that of the keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.batches import question_batch
from model.features import ImageFeatures, size_of
from model.heads import CrossAttentionHead
from model.projectors import CAbstractor, Views
from model.psavlm import PsaVlm
from model.safety import SafetyModules
from schemas.errors import ConfigError


@dataclass(frozen=True)
class Attention:
    """Shares of attention that sum to 1 per item: `patches` [B, P'] and `tokens` [B] on s_head.

    `counts` says how many of an image's places are its own; those behind them hold zeros.
    """

    patches: Tensor
    tokens: Tensor
    counts: tuple[int, ...]


@torch.no_grad()
def attention(
    model: PsaVlm, features: Tensor | Sequence[ImageFeatures], questions: Sequence[str]
) -> Attention:
    """The head's attention, averaged over its heads and the question's real positions.

    Args:
        model: its safety modules are used as they are; the language model is not run.
        features: h_o of B images.
        questions: B bare texts.

    Raises:
        ConfigError: the method's head has no attention.
    """
    ids, mask = question_batch(model.backbone, questions)
    text = model.backbone.embed(ids)
    patches, real, views = model.read_by_head(features)
    return of_modules(model.safety, patches, text, mask, real=real, views=views)


def heat_maps(
    model: PsaVlm, features: Tensor | Sequence[ImageFeatures], found: Attention
) -> list[Tensor]:
    """Every image's shares laid out [rows, columns] over what the encoder sees of it.

    Raises:
        ConfigError: the positions that the head reads are no grid of the image.
    """
    pooled = isinstance(model.safety.projector, CAbstractor)
    return [
        model.backbone.heat(shares[:count], size_of(image), pooled=pooled)
        for image, shares, count in zip(features, found.patches, found.counts, strict=True)
    ]


@torch.no_grad()
def of_modules(  # noqa: PLR0913 - what a head reads
    safety: SafetyModules,
    features: Tensor,
    text: Tensor,
    mask: Tensor,
    *,
    real: Tensor | None = None,
    views: Sequence[Views] | None = None,
) -> Attention:
    """The same from what `SafetyModules.concept_logits` takes."""
    head, s_head = safety.head, safety.tokens.s_head
    if not isinstance(head, CrossAttentionHead) or s_head is None:
        raise ConfigError(
            "this model's head has no attention to show (method.head is not 'cross_attention'); "
            "choose a method whose head has, such as psa-vlm"
        )
    keys, real_keys = safety.keys(features, real=real, views=views)
    keys = head.norm(keys)
    query, asked = head.query(text, mask)
    padding = None if real_keys is None else ~real_keys
    _, weights_BQK = head.attention(query, keys, keys, key_padding_mask=padding, need_weights=True)
    share = asked.to(weights_BQK)[..., None]
    mean_BK = (weights_BQK * share).sum(1) / share.sum(1)
    count = len(s_head)
    patches, places = mean_BK[:, count:], keys.shape[1] - count
    counts = [places] * len(keys) if real_keys is None else (real_keys.sum(1) - count).tolist()
    return Attention(patches=patches, tokens=mean_BK[:, :count].sum(1), counts=tuple(counts))
