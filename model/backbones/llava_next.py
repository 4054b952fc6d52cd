"""LLaVA-NeXT (1.6): the whole image as one square, then the image again in finer tiles.

The fine view is unpadded: patches on the margin that fills the tiles up are dropped, so that an
image has side^2 + rows x columns patches by its shape. Letters as in model/backbone.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import LlavaNextForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.modeling_llava_next import (
    get_anyres_image_grid_shape,
    unpad_image,
)

from model.backbone import Encoded, Size, as_square
from model.backbones.llava import Llava
from model.features import ImagePatches
from model.templates import HERMES, LLAMA_3, MISTRAL, VICUNA, Template
from schemas.errors import ConfigError

TEMPLATES = {"llama": VICUNA, "mistral": MISTRAL}
# Before the language model's kind: a Llama-3 is a `llama` too.
BY_TOKEN = {"<|im_start|>": HERMES, "<|start_header_id|>": LLAMA_3}


class LlavaNext(Llava):
    """A LLaVA-NeXT with a CLIP encoder; its newline vector ends every row of the fine view."""

    MODEL = LlavaNextForConditionalGeneration
    IMAGES = LlavaNextImageProcessorPil

    def __init__(
        self, vlm: nn.Module, tokenizer: PreTrainedTokenizerBase, image_processor: Any
    ) -> None:
        super().__init__(vlm, tokenizer, image_processor)
        strategy = self.config.vision_feature_select_strategy
        if strategy != "default":
            raise ConfigError(
                f"vision_feature_select_strategy {strategy!r}: a LLaVA-NeXT keeps no CLS token "
                "among its patches; give a model with 'default'"
            )

    def choose_template(self) -> Template:
        """By the tokenizer's own signs (ChatML, Llama-3), or by the language model's kind."""
        words = self.tokenizer.get_vocab()
        for token, template in BY_TOKEN.items():
            if token in words:
                return template
        kind = self.config.text_config.model_type
        if kind not in TEMPLATES:
            raise ConfigError(
                f"no prompt template is known for a LLaVA-NeXT on {kind!r}; known: "
                f"{', '.join(TEMPLATES)}, and any whose tokenizer has {' or '.join(BY_TOKEN)}"
            )
        return TEMPLATES[kind]

    @property
    def patches(self) -> int | None:
        """Depends on the image."""
        return None

    def grids(self, size: Size | None) -> tuple[Size, ...]:
        """The square of the whole image, and the fine view without its margin."""
        canvas = torch.empty(1, *self._canvas(size), device="meta")
        rows, columns = self._fine(canvas, size).shape[1:]
        return ((self.side, self.side), (rows, columns))

    def prepare(self, images: Sequence[Image]) -> Any:
        """Of each image its tiles' pixels [T, 3, height, width], and its size."""
        return [(self.pixels([image])[0], (image.height, image.width)) for image in images]

    def encode_prepared(self, prepared: Any) -> Encoded:
        """h_o [P, V] per image: the square's patches, then the fine view's, row by row."""
        return [self._encode(pixels, size) for pixels, size in prepared]

    def _encode(self, pixels: Tensor, size: Size) -> ImagePatches:
        tiles_TPV = self.encode_pixels(pixels.to(self.device, self.dtype))
        fine_VHW = self._fine(self._joined(tiles_TPV[1:].mT.unflatten(-1, self._tile), size), size)
        return ImagePatches(torch.cat([tiles_TPV[0], fine_VHW.flatten(1).T]), size)

    def project(self, features: Any) -> Encoded:
        """h_i [P + rows, D] per image: with a newline after each row, in the model's own packing.

        The margin is put back as zeros, so that the projector meets the shapes it meets in
        transformers, and drops out again.
        """
        return [ImagePatches(self._project(image), image.size) for image in features]

    def _project(self, image: ImagePatches) -> Tensor:
        rows = image.rows.to(self.device, self.dtype)
        square = self.side**2
        canvas_VHW = rows.new_zeros(rows.shape[1], *self._canvas(image.size))
        fine_VHW = self._fine(canvas_VHW, image.size)
        fine_VHW.copy_(rows[square:].T.unflatten(1, fine_VHW.shape[1:]))
        tiles_TPV = self._cut(canvas_VHW).flatten(2).mT
        tiles_TPD = self.vlm.model.multi_modal_projector(
            torch.cat([rows[None, :square], tiles_TPV])
        )
        packed, _ = self.vlm.model.pack_image_features(
            [tiles_TPD],
            [image.size],
            vision_feature_select_strategy="default",
            image_newline=self.vlm.model.image_newline,
        )
        return packed[0]

    def as_seen(self, image: Image) -> Tensor:
        """The picture in the fine view's pixels, cut where its patches are cut."""
        size = (image.height, image.width)
        pixels = self.pixels([image])[0]
        rows, columns = self.grids(size)[1]
        if not rows * columns:
            return self.denormalised(pixels[0])
        canvas = self._joined(pixels[1:], size)
        patch = int(self.config.vision_config.patch_size)
        height, width = rows * patch, columns * patch
        top, left = (canvas.shape[1] - height) // 2, (canvas.shape[2] - width) // 2
        return self.denormalised(canvas[:, top : top + height, left : left + width])

    def heat(self, shares: Tensor, size: Size | None, *, pooled: bool = False) -> Tensor:
        """Both views on the fine one's grid: a coarse patch's share goes to those that it covers.

        Where a safety projector pooled each view to a square, their sum. Newlines, which are no
        place of the image, are left out.
        """
        square, (rows, columns) = self.side**2, self.grids(size)[1]
        if pooled:
            views = 2 if rows * columns else 1
            return as_square(shares.unflatten(0, (views, -1)).sum(0))
        if len(shares) == square + rows * (columns + 1):  # h_i
            kept = shares[square:].view(rows, columns + 1)[:, :columns]
            shares = torch.cat([shares[:square], kept.flatten()])
        coarse = shares[:square].view(self.side, self.side)
        if not rows * columns:
            return coarse
        fine = shares[square:].view(rows, columns)
        down, across = (covered(self.side, n).to(shares) for n in (rows, columns))
        return fine + down @ coarse @ across.T

    # --- tiles: T of them, their square of patches or pixels, the canvas that they make up ---

    @property
    def _tile(self) -> Size:
        return (self.side, self.side)

    def _tiles(self, size: Size | None) -> Size:
        """How many tiles lie below and beside each other."""
        pixels = int(self.config.vision_config.image_size)
        down, across = get_anyres_image_grid_shape(size, self.config.image_grid_pinpoints, pixels)
        return int(down), int(across)

    def _canvas(self, size: Size | None) -> Size:
        down, across = self._tiles(size)
        return down * self.side, across * self.side

    def _joined(self, tiles: Tensor, size: Size) -> Tensor:
        """Tiles [T, C, h, w] laid out as one canvas [C, H, W]."""
        grid = tiles.unflatten(0, self._tiles(size))
        return grid.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)

    def _cut(self, canvas: Tensor) -> Tensor:
        """A canvas of patches [C, H, W] cut into tiles [T, C, h, w]."""
        grid = canvas.unflatten(2, (-1, self.side)).unflatten(1, (-1, self.side))
        return grid.permute(1, 3, 0, 2, 4).flatten(0, 1)

    def _fine(self, canvas: Tensor, size: Size | None) -> Tensor:
        """The part [C, rows, columns] of a canvas that shows the image; a view of it."""
        return unpad_image(canvas, size)


def covered(coarse: int, fine: int) -> Tensor:
    """The part [fine, coarse] of each coarse cell of a line that each fine cell covers.

    Columns sum to 1: what is spread out stays as much as it was.
    """
    starts = torch.arange(fine + 1) / fine * coarse
    cells = torch.arange(coarse)
    ends = torch.minimum(starts[1:, None], cells[None] + 1.0)
    begins = torch.maximum(starts[:-1, None], cells[None].float())
    return (ends - begins).clamp(min=0)
