"""Qwen2.5-VL: images keep their shape, and positions run over time, rows and columns.

h_o is the encoder's output before its merger, m x m patches side by side for each place of the
language model's grid (m = 2): V is four times the encoder's width, P = rows x columns. The merger
is this family's projector. The encoder attends in windows and keeps its patches in their order;
h_o has them row by row. Letters as in model/backbone.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from transformers.vision_utils import get_vision_window_index

from model.backbone import Backbone, Encoded, Size
from model.features import ImageFeatures, ImagePatches
from model.templates import QWEN, Template
from schemas.errors import DataError

MOST_OBLONG = 200  # the longer side over the shorter one, beyond which Qwen's resize refuses


class Qwen25Vl(Backbone):
    """A Qwen2.5-VL for single images."""

    MODEL = Qwen2_5_VLForConditionalGeneration
    IMAGES = Qwen2VLImageProcessorPil

    def choose_template(self) -> Template:
        """ChatML with Qwen's own system line."""
        return QWEN

    @property
    def merge(self) -> int:
        """Patches of the encoder along one side of a place in the language model's grid."""
        return int(self.config.vision_config.spatial_merge_size)

    @property
    def vision_dim(self) -> int:
        """V, the encoder's width times the patches that are merged."""
        return int(self.config.vision_config.hidden_size) * self.merge**2

    @property
    def patches(self) -> int | None:
        """Depends on the image."""
        return None

    def grids(self, size: Size | None) -> tuple[Size, ...]:
        """Rows and columns of the language model's grid.

        Raises:
            DataError: an image too oblong.
        """
        assert size is not None
        height, width = size
        if max(size) > MOST_OBLONG * min(size):
            raise DataError(
                f"an image of {width} x {height} pixels: Qwen2.5-VL takes none whose sides differ "
                f"more than {MOST_OBLONG} times; crop it, or drop its rows"
            )
        look, place = self.image_processor, self.config.vision_config.patch_size * self.merge
        edges = look.size["shortest_edge"], look.size["longest_edge"]
        high, wide = smart_resize(height, width, place, min_pixels=edges[0], max_pixels=edges[1])
        return ((high // place, wide // place),)

    def prepare(self, images: Sequence[Image]) -> Any:
        """Of each image the encoder's patches, and its size."""
        sizes = [(image.height, image.width) for image in images]
        return [(self._pixels(i, size), size) for i, size in zip(images, sizes, strict=True)]

    def encode_prepared(self, prepared: Any) -> Encoded:
        """h_o [P, V] of each image by itself."""
        return [self._encode(pixels, size) for pixels, size in prepared]

    @torch.no_grad()
    def _encode(self, pixels: Tensor, size: Size) -> ImagePatches:
        grid, own = self._thw(size).to(self.device), pixels.to(self.device, self.dtype)
        seen = self.vlm.model.visual(own, grid_thw=grid).last_hidden_state
        merged = seen.unflatten(0, (-1, self.merge**2)).flatten(1)
        return ImagePatches(merged[torch.argsort(self._windows(size))], size)

    def project(self, features: Any) -> Encoded:
        """h_i [P, D] per image: the merger, on patches in the order in which it meets them."""
        return [ImagePatches(self._project(image), image.size) for image in features]

    def _project(self, image: ImagePatches) -> Tensor:
        windows = self._windows(image.size)
        rows = image.rows.to(self.device, self.dtype)[windows]
        apart = rows.unflatten(1, (self.merge**2, -1)).flatten(0, 1)
        return self.vlm.model.visual.merger(apart)[torch.argsort(windows)]

    def positions(self, mask: Tensor, kinds: Tensor, images: Sequence[ImageFeatures]) -> Tensor:
        """Time, row and column of every place, [3, B, N], by the model's own rule."""
        if not images:
            return super().positions(mask, kinds, images).expand(3, -1, -1)
        grids = [self._thw(_size(image)) for image in images]
        positions, _ = self.vlm.model.get_rope_index(
            input_ids=kinds,
            mm_token_type_ids=kinds,
            image_grid_thw=torch.cat(grids).to(mask.device),
            attention_mask=mask,
        )
        return positions

    def as_seen(self, image: Image) -> Tensor:
        """The whole picture, resized."""
        size = (image.height, image.width)
        (rows, columns), look = self.grids(size)[0], self.image_processor
        patch, merge = int(self.config.vision_config.patch_size), self.merge
        blocks = self._pixels(image, size).view(
            rows, columns, merge, merge, 3, look.temporal_patch_size, patch, patch
        )
        pixels = blocks[..., 0, :, :].permute(4, 0, 2, 5, 1, 3, 6)
        picture = pixels.reshape(3, rows * merge * patch, columns * merge * patch)
        mean, std = (torch.tensor(v)[:, None, None] for v in (look.image_mean, look.image_std))
        return (picture * std + mean).clamp(0, 1)

    def _pixels(self, image: Image, size: Size) -> Tensor:
        """The encoder's patches [m m P, pixels of one], after a look at the image's shape."""
        self.grids(size)
        return self.image_processor(images=[image], return_tensors="pt")["pixel_values"]

    def _thw(self, size: Size) -> Tensor:
        """[1, 3]: one frame, and the encoder's own rows and columns."""
        rows, columns = self.grids(size)[0]
        return torch.tensor([[1, rows * self.merge, columns * self.merge]])

    def _windows(self, size: Size) -> Tensor:
        """The places [P] of the grid in the order of the encoder's windows."""
        vision = self.config.vision_config
        windows, _ = get_vision_window_index(
            self._thw(size),
            spatial_merge_size=self.merge,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )
        return windows.to(self.device)


def _size(image: ImageFeatures) -> Size:
    assert isinstance(image, ImagePatches)
    return image.size
