"""Which attention kernel the language model trains with, and items behind each other in one row.

A padded batch computes its padding too. Where the kernel takes sequences of unequal lengths, the
items of a micro-batch lie in one row instead, each with positions of its own from 0 on, and none
sees another: transformers finds the seams by the positions. Without such a kernel one row needs a
mask over all pairs of its positions, and costs more than the padding did (0.92x on two cores).
"""

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.backbone import Backbone
from model.batches import PromptBatch
from model.losses import IGNORED
from schemas.config import TrainConfig

FLASH = "flash_attention_2"
# FlashAttention 2 is for Ampere and later.
LEAST_CAPABILITY = (8, 0)


class Row(NamedTuple):
    """Items behind each other: embeds [1, M, D]; positions and labels [1, M]."""

    embeds: Tensor
    positions: Tensor
    labels: Tensor


def best_attention(config: TrainConfig, backbone: Backbone, device: torch.device) -> str:
    """FlashAttention where it is installed and can run, else what the base has (sdpa)."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    wanted = config.attention == "auto" and config.precision == "bf16"  # it has no other types
    if not wanted or device.type != "cuda" or not is_flash_attn_2_available():
        return attention_of(backbone)
    able = torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY
    takes = able and _language(backbone)._supports_flash_attn
    return FLASH if takes else attention_of(backbone)


def attend_by(backbone: Backbone, kernel: str) -> None:
    """Lets the language model use an attention kernel, by transformers' name; the encoder does not.

    Its steps stay repeatable to the bit.
    """
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"  # of its backward pass; read at every call
    if attention_of(backbone) != kernel:
        backbone.vlm.set_attn_implementation({"text_config": kernel})


def attention_of(backbone: Backbone) -> str:
    """The language model's attention kernel."""
    return str(_language(backbone).config._attn_implementation)


def can_pack(backbone: Backbone) -> bool:
    """Whether its kernel takes items of unequal lengths in one row.

    Bases whose positions have several axes are left out: their seams cannot be found by them.
    """
    plain = type(backbone).positions is Backbone.positions
    return plain and attention_of(backbone) == FLASH


def in_one_row(batch: PromptBatch) -> Row:
    """A padded batch without its padding, whose items' first tokens nothing predicts."""
    real = batch.mask.bool()
    labels = batch.labels.masked_fill(batch.positions == 0, IGNORED)
    return Row(batch.embeds[real][None], batch.positions[real][None], labels[real][None])


def _language(backbone: Backbone) -> Any:
    return backbone.vlm.model.language_model
