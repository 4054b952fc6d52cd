"""Images through the frozen encoder, in batches that are always full, and as they are kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.config import EncodeConfig

if TYPE_CHECKING:
    import numpy as np
    import torch

    from model.backbone import Backbone
    from model.features import ImagePatches


def open_sight(config: EncodeConfig, base: Path) -> "Backbone":
    """The encoder of a base's folder, computing in the config's precision."""
    import torch

    from model.backbones.sight import load_sight

    half = config.precision == "bf16"
    return load_sight(base, dtype=torch.bfloat16 if half else torch.float32)


def seen(
    backbone: "Backbone", pictures: Sequence[Any], batch: int
) -> "torch.Tensor | list[ImagePatches]":
    """h_o of a batch of pictures (PIL, RGB) that may not be full."""
    return seen_prepared(backbone, prepared(backbone, pictures, batch), len(pictures))


def prepared(backbone: "Backbone", pictures: Sequence[Any], batch: int) -> Any:
    """The same pictures on the way to the encoder: what a thread can do beside it."""
    if backbone.patches is None:
        return backbone.prepare(pictures)
    # Always a full batch: an image's features must not depend on how many came along.
    return backbone.prepare([*pictures, *[pictures[-1]] * (batch - len(pictures))])


def seen_prepared(
    backbone: "Backbone", ready: Any, count: int
) -> "torch.Tensor | list[ImagePatches]":
    """h_o of the first `count` that `prepared` gave."""
    import torch

    with torch.no_grad():
        features = backbone.encode_prepared(ready)
    return features[:count] if isinstance(features, torch.Tensor) else list(features)


def let_go() -> None:
    """Give back what encoders that are gone took of a GPU, which torch keeps; training wants it."""
    import torch

    torch.cuda.empty_cache()


def as_kept(features: Any, dtype: str) -> "np.ndarray":
    """A tensor in a shard's type, bfloat16 as uint16."""
    import torch

    kept = features.to(getattr(torch, dtype)).cpu()
    return kept.view(torch.uint16).numpy() if dtype == "bfloat16" else kept.numpy()


def as_tensor(kept: "np.ndarray") -> "torch.Tensor":
    """What `as_kept` gave, float32 or bfloat16; the array must be the caller's own."""
    import torch

    found = torch.from_numpy(kept)
    return found.view(torch.bfloat16) if found.dtype == torch.uint16 else found
