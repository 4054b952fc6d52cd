"""Where the safety head looks: its attention over image patches and over its own tokens.

The weights are those of the head's forward pass, asked for a second time; no parameter is its own.
Letters as in safety.py; Q is the number of queries, S + P' that of the keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from PIL.Image import Image
from torch import Tensor

from model.backbone import Backbone
from model.batches import question_batch
from model.heads import CrossAttentionHead
from model.psavlm import PsaVlm
from model.safety import SafetyModules
from schemas.errors import ConfigError


@dataclass(frozen=True)
class Attention:
    """Shares of attention that sum to 1 per item: `patches` [B, P'] and `tokens` [B] on s_head."""

    patches: Tensor
    tokens: Tensor

    @property
    def side(self) -> int | None:
        """H of the H x H patches; None where they form no square (with a CLS token, say)."""
        count = self.patches.shape[1]
        return isqrt(count) if isqrt(count) ** 2 == count else None

    def grid(self) -> Tensor:
        """Patches as they lie in the image, [B, H, H]; ConfigError where they form no square."""
        if self.side is None:
            raise ConfigError(
                f"{self.patches.shape[1]} image positions form no square, so they cannot be laid "
                "over the image: use a base with vision_feature_select_strategy 'default'"
            )
        return self.patches.unflatten(1, (self.side, self.side))


@torch.no_grad()
def attention(model: PsaVlm, features: Tensor, questions: Sequence[str]) -> Attention:
    """The head's attention, averaged over its heads and the question's real positions.

    Args:
        model: its safety modules are used as they are; the language model is not run.
        features: h_o [B, P, V].
        questions: B bare texts.

    Raises:
        ConfigError: the method's head has no attention.
    """
    ids, mask = question_batch(model.backbone, questions)
    text = model.backbone.embed(ids)
    return of_modules(model.safety, model.read_by_head(features), text, mask)


@torch.no_grad()
def of_modules(safety: SafetyModules, features: Tensor, text: Tensor, mask: Tensor) -> Attention:
    """The same from h_o [B, P, V], h_text [B, T, D] and its mask [B, T]."""
    head, s_head = safety.head, safety.tokens.s_head
    if not isinstance(head, CrossAttentionHead) or s_head is None:
        raise ConfigError(
            "this model's head has no attention to show (method.head is not 'cross_attention'); "
            "choose a method whose head has, such as psa-vlm"
        )
    keys, _ = safety.keys(features)
    keys = head.norm(keys)
    query, real = head.query(text, mask)
    _, weights_BQK = head.attention(query, keys, keys, need_weights=True)
    share = real.to(weights_BQK)[..., None]
    mean_BK = (weights_BQK * share).sum(1) / share.sum(1)
    count = len(s_head)
    return Attention(patches=mean_BK[:, count:], tokens=mean_BK[:, :count].sum(1))


def as_seen(backbone: Backbone, images: Sequence[Image]) -> Tensor:
    """The images as the encoder gets them (resized, cropped), [B, 3, height, width] in 0..1."""
    look = backbone.image_processor
    pixels = look(images=list(images), return_tensors="pt")["pixel_values"]
    mean, std = (torch.tensor(v)[:, None, None] for v in (look.image_mean, look.image_std))
    return (pixels * std + mean).clamp(0, 1)
