"""The base VLM as it is: encoder, projector and language model, each callable on its own.

Letters of shapes: B batch, P image patches, V vision width, D language width, T text, N prompt
length, W vocabulary. The Hugging Face class is held, never subclassed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, LlavaForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from model.memory import check_memory
from schemas.errors import ConfigError, StorageError


class Backbone(nn.Module):
    """A LLaVA with its tokenizer and its image processor (PIL backend, pixels without torchvision).

    Args:
        llava: the model; its vision tower must be CLIP's, its feature layer a single one.
        tokenizer: a fast one, with an end-of-sequence token and the model's image placeholder.
        image_processor: pixels to [3, height, width] as the base was trained.
    """

    def __init__(
        self,
        llava: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: CLIPImageProcessorPil,
    ) -> None:
        super().__init__()
        # Any: transformers types sub-configs as optional or plain dictionaries.
        config: Any = llava.config
        _check(config, tokenizer)
        self.llava: Any = llava
        self.tokenizer: Any = tokenizer
        self.image_processor = image_processor
        self.encoder_layers = _layers_to_run(config)
        self.image_token = str(self.tokenizer.convert_ids_to_tokens(config.image_token_id))
        self.control_tokens = frozenset([*self.tokenizer.all_special_tokens, self.image_token])

    @classmethod
    def load(
        cls, name: str, *, revision: str = "", dtype: torch.dtype = torch.float32
    ) -> "Backbone":
        """Reads a model folder, or a hub name when no such folder exists; safetensors only.

        Raises:
            ConfigError: the weights are larger than the memory that is free.
            StorageError: nothing readable under that name.
        """
        if Path(name).is_dir():
            check_memory(Path(name), dtype)
        source: dict[str, Any] = {
            "revision": revision or "main",
            "local_files_only": Path(name).is_dir(),
            "trust_remote_code": False,
        }
        try:
            llava = LlavaForConditionalGeneration.from_pretrained(
                name, dtype=dtype, use_safetensors=True, **source
            )
            tokenizer = AutoTokenizer.from_pretrained(name, **source)
            images = CLIPImageProcessorPil.from_pretrained(name, **source)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"no LLaVA readable at {name!r}: {error}. Give a folder with config.json, "
                "*.safetensors, tokenizer and image processor, or a hub name (and go online)"
            ) from error
        return cls(llava, tokenizer, images)

    @property
    def vision_dim(self) -> int:
        """V, the width of h_o."""
        return int(self.llava.config.vision_config.hidden_size)

    @property
    def llm_dim(self) -> int:
        """D, the width of the language model's embeddings."""
        return int(self.llava.config.text_config.hidden_size)

    @property
    def patches(self) -> int:
        """P, how many patches the encoder gives for one image."""
        vision = self.llava.config.vision_config
        return int((vision.image_size // vision.patch_size) ** 2)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.llava.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the weights."""
        return self.llava.dtype

    def freeze(self) -> None:
        """Lets nothing of the base train, and switches its dropout off."""
        self.requires_grad_(False)
        self.eval()

    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """h_o [B, P, V]: features of layer -2 without CLS (METHOD.md section 2), never trained.

        The layers after that one are not run.
        """
        pixels = self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return self.encode_pixels(pixels.to(self.device, self.dtype))

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """h_o [B, P, V] from processed pixels [B, 3, height, width]."""
        tower = self.llava.model.vision_tower
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in tower.encoder.layers[: self.encoder_layers]:
            hidden = layer(hidden, None)
        drop_cls = self.llava.config.vision_feature_select_strategy == "default"
        return hidden[:, 1:] if drop_cls else hidden

    def project(self, features: Tensor) -> Tensor:
        """h_i [B, P, D] from h_o [B, P, V] by the VLM's own projector."""
        projector = self.llava.model.multi_modal_projector
        return projector(features.to(self.device, self.dtype))

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of token ids [...]: the table only, no layers."""
        return self.llava.get_input_embeddings()(ids.to(self.device))

    def hidden(self, embeds: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states [B, N, D] of a prompt's embeddings [B, N, D]."""
        output = self.llava.model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [..., W] of hidden states [..., D]."""
        return self.llava.lm_head(hidden)

    @torch.no_grad()
    def generate(
        self, embeds: Tensor, mask: Tensor, positions: Tensor, *, max_new_tokens: int
    ) -> list[str]:
        """Greedy answers to left-padded prompt embeddings [B, N, D]; special tokens removed."""
        eos = self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id
        ids = self.llava.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=eos,
            pad_token_id=eos if pad is None else pad,
        )
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]


def _layers_to_run(config: Any) -> int:
    # hidden_states[0] is the first layer's input, so that -2 of L layers is reached after L - 1.
    layer = config.vision_feature_layer
    count = int(config.vision_config.num_hidden_layers)
    return int(layer) if layer >= 0 else count + 1 + int(layer)


def _check(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    if not isinstance(config.vision_feature_layer, int):
        raise ConfigError(
            f"vision_feature_layer {config.vision_feature_layer} names several layers; "
            "only models with one are supported"
        )
    if config.vision_config.model_type != "clip_vision_model":
        raise ConfigError(
            f"vision tower {config.vision_config.model_type!r} is not supported: give a LLaVA "
            "with a CLIP encoder"
        )
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise ConfigError(
            "the tokenizer must be a fast one with an eos token: answers are found by offsets "
            "and end with eos"
        )
