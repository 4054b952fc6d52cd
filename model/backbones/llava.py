"""LLaVA-1.5: every image is one square of patches. Letters as in model/backbone.py."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from model.backbone import Backbone, Encoded, Size
from model.templates import LLAVA, Template
from schemas.errors import ConfigError


class Llava(Backbone):
    """A LLaVA with a CLIP encoder and one feature layer (7B, 13B, and our tiny one)."""

    MODEL: ClassVar[Any] = LlavaForConditionalGeneration
    IMAGES: ClassVar[Any] = CLIPImageProcessorPil

    def __init__(
        self, vlm: nn.Module, tokenizer: PreTrainedTokenizerBase, image_processor: Any
    ) -> None:
        super().__init__(vlm, tokenizer, image_processor)
        if not isinstance(self.config.vision_feature_layer, int):
            raise ConfigError(
                f"vision_feature_layer {self.config.vision_feature_layer} names several layers; "
                "only models with one are supported"
            )
        if self.config.vision_config.model_type != "clip_vision_model":
            raise ConfigError(
                f"vision tower {self.config.vision_config.model_type!r} is not supported: give a "
                "model with a CLIP encoder"
            )
        # hidden_states[0] is the first layer's input: -2 of L layers is reached after L - 1.
        layer = self.config.vision_feature_layer
        count = int(self.config.vision_config.num_hidden_layers)
        self.encoder_layers = layer if layer >= 0 else count + 1 + layer

    def choose_template(self) -> Template:
        """USER: <image>\\n<question> ASSISTANT: <answer></s>."""
        return LLAVA

    @property
    def vision_dim(self) -> int:
        """V, the encoder's width."""
        return int(self.config.vision_config.hidden_size)

    @property
    def side(self) -> int:
        """Patches along one side of the encoder's square."""
        vision = self.config.vision_config
        return int(vision.image_size // vision.patch_size)

    @property
    def patches(self) -> int | None:
        """P, the same for all images."""
        return self.side**2

    def grids(self, size: Size | None) -> tuple[Size, ...]:
        """The one square."""
        return ((self.side, self.side),)

    def prepare(self, images: Sequence[Image]) -> Any:
        """Normalised pixels [B, 3, height, width], in the encoder's type."""
        return self.pixels(images).to(self.dtype)

    def encode_prepared(self, prepared: Any) -> Encoded:
        """h_o [B, P, V]: features of layer -2 without CLS; the layers after it are not run."""
        return self.encode_pixels(prepared.to(self.device, self.dtype))

    def pixels(self, images: Sequence[Image]) -> Tensor:
        """Normalised pixels [B, 3, height, width]."""
        return self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """h_o [B, P, V] from processed pixels [B, 3, height, width]."""
        return self._see(pixels)

    def encode_seen(self, seen: Tensor) -> Tensor:
        """h_o [B, P, V] of pictures [B, 3, height, width] as of `as_seen`, with a gradient."""
        if self.patches is None:
            return super().encode_seen(seen)
        mean, std = (value.to(seen) for value in self._spread())
        return self._see(((seen - mean) / std).to(self.device, self.dtype))

    def _see(self, pixels: Tensor) -> Tensor:
        tower = self.vlm.model.vision_tower
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in tower.encoder.layers[: self.encoder_layers]:
            hidden = layer(hidden, None)
        drop_cls = self.config.vision_feature_select_strategy == "default"
        return hidden[:, 1:] if drop_cls else hidden

    def project(self, features: Any) -> Encoded:
        """h_i [B, P, D] from h_o [B, P, V], all at once."""
        rows = features if isinstance(features, Tensor) else torch.stack(list(features))
        return self.vlm.model.multi_modal_projector(rows.to(self.device, self.dtype))

    def as_seen(self, image: Image) -> Tensor:
        """The picture resized and cropped to the square."""
        return self.denormalised(self.pixels([image])[0])

    def denormalised(self, pixels: Tensor) -> Tensor:
        """Pixels [..., 3, height, width] in 0..1 again."""
        mean, std = self._spread()
        return (pixels * std + mean).clamp(0, 1)

    def _spread(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [3, 1, 1] by which pixels in 0..1 are normalised."""
        look = self.image_processor
        mean, std = (torch.tensor(v)[:, None, None] for v in (look.image_mean, look.image_std))
        return mean, std
