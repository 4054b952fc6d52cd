"""Where the safety head looks: its attention over image patches and over its own tokens.

The weights are those of the head's forward pass, asked for a second time; no parameter is its own.
Letters as in safety.py; Q is the number of queries, S + P' that of the keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.batches import question_batch
from model.features import ImageFeatures, size_of, stacked
from model.psavlm import PsaVlm
from model.safety import SafetyModules


@dataclass(frozen=True)
class Attention:
    """Shares of attention that sum to 1 per item: `patches` [B, P'] and `tokens` [B] on s_head.

    Where images have patches of differing number, the places behind an image's own hold zeros.
    """

    patches: Tensor
    tokens: Tensor


@torch.no_grad()
def attention(
    model: PsaVlm, features: Tensor | Sequence[ImageFeatures], questions: Sequence[str]
) -> Attention:
    """The head's attention, averaged over its heads and the question's real positions.

    Args:
        model: its safety modules are used as they are; the language model is not run.
        features: h_o of B images.
        questions: B bare texts.
    """
    ids, mask = question_batch(model.backbone, questions)
    text = model.backbone.embed(ids)
    patches, real = stacked(features, ids.device)
    return of_modules(model.safety, patches, text, mask, real=real)


def heat_maps(
    model: PsaVlm, features: Tensor | Sequence[ImageFeatures], found: Attention
) -> list[Tensor]:
    """Every image's shares laid out [rows, columns] over what the encoder sees of it.

    Raises:
        ConfigError: the positions of the safety projector are no grid of the image.
    """
    maps = []
    for image, shares in zip(features, found.patches, strict=True):
        size = size_of(image)
        own = shares if size is None or len(found.patches) == 1 else shares[: len(image)]
        maps.append(model.backbone.heat(own, size))
    return maps


@torch.no_grad()
def of_modules(
    safety: SafetyModules,
    features: Tensor,
    text: Tensor,
    mask: Tensor,
    *,
    real: Tensor | None = None,
) -> Attention:
    """The same from h_o [B, P, V], h_text [B, T, D] and its mask [B, T]; `real` [B, P] or None."""
    head = safety.head
    h_s = safety.projector(features)
    s_head = safety.tokens.s_head.expand(len(h_s), -1, -1)
    keys = head.norm(torch.cat([s_head, h_s], dim=1))
    query, asked = head.query(text, mask)
    padding = None if real is None else pad(~real, (s_head.shape[1], 0))
    _, weights_BQK = head.attention(query, keys, keys, key_padding_mask=padding, need_weights=True)
    share = asked.to(weights_BQK)[..., None]
    mean_BK = (weights_BQK * share).sum(1) / share.sum(1)
    count = s_head.shape[1]
    return Attention(patches=mean_BK[:, count:], tokens=mean_BK[:, :count].sum(1))
