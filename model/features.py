"""Images as features: of one length in every image, or of a length that depends on its size.

Letters as in backbone.py. A base with one grid gives tensors [B, P, V]; one whose grid follows the
image gives an `ImagePatches` per image, with the size from which the base tells its grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class ImagePatches:
    """One image: `rows` [P, V] or [P, D], and its `size`, height and width in pixels."""

    rows: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rows)


# One image's h_o or h_i. A bare tensor comes from a base whose images all have one grid.
ImageFeatures = Tensor | ImagePatches
Features = Tensor | Sequence[ImageFeatures | None]


def rows_of(image: ImageFeatures) -> Tensor:
    """The tensor [P, ...] of one image."""
    return image.rows if isinstance(image, ImagePatches) else image


def size_of(image: ImageFeatures) -> tuple[int, int] | None:
    """Height and width in pixels; None where the grid does not depend on them."""
    return image.size if isinstance(image, ImagePatches) else None


def stacked(
    features: Tensor | Sequence[ImageFeatures], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """All images as [B, P, V], and a mask [B, P], True at real patches; None if all are real.

    In float32: what is kept in half is widened on the device, and travels in half.
    """
    if isinstance(features, Tensor):
        return features.to(device).float(), None
    rows = [rows_of(image).to(device).float() for image in features]
    if len({len(row) for row in rows}) == 1:
        return torch.stack(rows), None
    ones = [torch.ones(len(row), dtype=torch.bool, device=device) for row in rows]
    return pad_sequence(rows, batch_first=True), pad_sequence(ones, batch_first=True)
