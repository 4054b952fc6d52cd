"""How a training step computes: its floating type, and what it keeps for the backward pass."""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    create_selective_checkpoint_contexts,
)

from model.backbone import Backbone
from schemas.config import TrainConfig

# What `recompute = "cheap"` keeps: products, which cost the time. All else costs only memory.
PRODUCTS = frozenset(
    {
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    }
)
# FlashAttention 2's own, from 2.7.1 on. By name: torch has them only where the package is loaded.
FLASH_PRODUCTS = frozenset(
    {"flash_attn::_flash_attn_forward", "flash_attn::_flash_attn_varlen_forward"}
)


def base_type(config: TrainConfig) -> torch.dtype:
    """The type of the base's weights: half only where they stay frozen, since steps are small."""
    half = config.precision == "bf16" and "full" not in config.parts
    return torch.bfloat16 if half else torch.float32


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Products in bfloat16 for `precision = "bf16"`; nothing changes for "fp32"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")


def recompute(backbone: Backbone, what: str) -> None:
    """Let the language model's layers keep less for the backward pass, by TrainConfig.recompute.

    `cheap` computes again what is no product (norms, activations, rotations), `all` whole layers.
    Loss and gradients are the same numbers.
    """
    if what == "none":
        return
    settings: dict[str, Any] = {"use_reentrant": False}
    if what == "cheap":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _kept)
    language = backbone.vlm.model.language_model
    language.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)


def _kept(_: SelectiveCheckpointContext, operation: Any, *args: Any, **kwargs: Any) -> Any:
    kept = operation in PRODUCTS or operation.name() in FLASH_PRODUCTS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
