"""The base VLM as it is: encoder, projector and language model, each callable on its own.

One class per family in model/backbones/; this is what all of them share, and what the rest of the
code knows of them. Letters of shapes: B batch, P image patches, V vision width, D language width,
T text, N prompt length, W vocabulary. The Hugging Face class is held, never subclassed.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from math import isqrt
from typing import Any, ClassVar, cast

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from model.features import ImageFeatures, ImagePatches
from model.templates import Template
from model.tensors import digest
from schemas.errors import ConfigError

Size = tuple[int, int]
Encoded = Tensor | Sequence[ImagePatches]


class Backbone(nn.Module):
    """A VLM with its tokenizer and its image processor (PIL backend, pixels without torchvision).

    Args:
        vlm: the model, of the family's class; `config.image_token_id` is the image's placeholder.
        tokenizer: a fast one, with an end-of-sequence token and the placeholder.
        image_processor: pixels as the base was trained.

    Raises:
        ConfigError: a variant of the family that is not supported.
    """

    MODEL: ClassVar[Any]  # transformers' class, and that of its image processor without torchvision
    IMAGES: ClassVar[Any]

    def __init__(
        self, vlm: nn.Module, tokenizer: PreTrainedTokenizerBase, image_processor: Any
    ) -> None:
        super().__init__()
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            raise ConfigError(
                "the tokenizer must be a fast one with an eos token: answers are found by offsets "
                "and end with eos"
            )
        # Any: transformers types sub-configs as optional or plain dictionaries.
        self.vlm: Any = vlm
        self.tokenizer: Any = tokenizer
        self.image_processor: Any = image_processor
        self.image_token = str(tokenizer.convert_ids_to_tokens(self.config.image_token_id))
        special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        self.control_tokens = frozenset([*tokenizer.all_special_tokens, self.image_token, *special])
        self.template = self.choose_template()

    @staticmethod
    def load(
        name: str,
        *,
        revision: str = "",
        dtype: torch.dtype = torch.float32,
        four_bit_on: torch.device | None = None,
    ) -> "Backbone":
        """Reads a model folder, or a hub name when no such folder exists; safetensors only.

        With `four_bit_on` onto that device, the language model's layers in NF4 (quantise.py).

        Raises:
            ConfigError: a family without a class here, or files that must be converted first.
            StorageError: nothing readable under that name.
        """
        from model.backbones.loading import load

        return load(name, revision=revision, dtype=dtype, four_bit_on=four_bit_on)

    # --- what a family tells ---

    @abstractmethod
    def choose_template(self) -> Template:
        """The text around questions and answers that this base was trained with."""

    @property
    @abstractmethod
    def vision_dim(self) -> int:
        """V, the width of h_o."""

    @property
    @abstractmethod
    def patches(self) -> int | None:
        """P, how many patches the encoder gives for one image; None where that depends on it."""

    @abstractmethod
    def grids(self, size: Size | None) -> tuple[Size, ...]:
        """Rows and columns of each view of an image of that size (height, width), in h_o's order.

        Args:
            size: pixels; None only where all images have one grid.
        """

    @abstractmethod
    def prepare(self, images: Sequence[Image]) -> Any:
        """Images as `encode_prepared` takes them: pixels, made without the weights."""

    @abstractmethod
    def encode_prepared(self, prepared: Any) -> Encoded:
        """h_o of images that are prepared; see `encode_images`."""

    @abstractmethod
    def project(self, features: Any) -> Encoded:
        """h_i of h_o by the VLM's own projector, as the language model reads it.

        Args:
            features: what `encode_images` gave, or a part of it.
        """

    @abstractmethod
    def as_seen(self, image: Image) -> Tensor:
        """The picture as the encoder gets it, [3, height, width] in 0..1."""

    def encode_seen(self, seen: Tensor) -> Tensor:
        """h_o [B, P, V] of pictures as of `as_seen`, with a gradient to their pixels.

        Raises:
            ConfigError: a family whose encoder reads more than that one picture.
        """
        raise ConfigError(
            f"{type(self).__name__} encodes other pixels than those of one picture, so it cannot "
            "be attacked through them: choose a model on a LLaVA-1.5, whose images are one square"
        )

    # --- what all families share ---

    def encode_images(self, images: Sequence[Image]) -> Encoded:
        """h_o of every image (METHOD.md section 2), never trained.

        [B, P, V], or one `ImagePatches` [P, V] each, which do not depend on the others.
        """
        return self.encode_prepared(self.prepare(images))

    @cached_property
    def digest(self) -> str:
        """sha256 over the embedding table and all vectors as bfloat16, by which a base is known.

        Matrices are left out: they may be quantised. It is that of the time when it is first asked,
        whatever trains later; "" for a model without weights (meta device).
        """
        table = self.vlm.get_input_embeddings().weight
        vectors = (p for _, p in sorted(self.vlm.named_parameters()) if p.ndim == 1)
        return digest((table, *vectors))

    @property
    def config(self) -> Any:
        """The model's own configuration."""
        return self.vlm.config

    @property
    def llm_dim(self) -> int:
        """D, the width of the language model's embeddings."""
        return int(self.config.text_config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return cast(torch.device, self.vlm.device)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the weights."""
        return cast(torch.dtype, self.vlm.dtype)

    @property
    def quantised(self) -> bool:
        """Whether its language model lies in four bits."""
        return bool(getattr(self.vlm, "is_loaded_in_4bit", False))

    def freeze(self) -> None:
        """Lets nothing of the base train, and switches its dropout off."""
        self.requires_grad_(False)
        self.eval()

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of token ids [...]: the table only, no layers."""
        return self.vlm.get_input_embeddings()(ids.to(self.device))

    def heat(self, shares: Tensor, size: Size | None, *, pooled: bool = False) -> Tensor:
        """Shares [P'] of an image's places, laid out [rows, columns] over `as_seen`.

        Args:
            shares: of its patches, row by row.
            size: the image's pixels; None only where all images have one grid.
            pooled: they are those of the square to which a safety projector pooled the patches.

        Raises:
            ConfigError: the shares fill no such grid.
        """
        rows, columns = self.grids(size)[-1]
        as_patches = not pooled and len(shares) == rows * columns
        return shares.view(rows, columns) if as_patches else as_square(shares)

    def positions(self, mask: Tensor, kinds: Tensor, images: Sequence[ImageFeatures]) -> Tensor:
        """Position ids of padded prompts, [B, N], or [axes, B, N] where the base has several.

        Args:
            mask: [B, N], 1 at real positions.
            kinds: [B, N], 1 at h_i, 0 elsewhere.
            images: h_i of the images of the batch, in their order.
        """
        return (mask.cumsum(-1) - 1).clamp(min=0)

    def hidden(self, embeds: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        """Last hidden states [B, N, D] of a prompt's embeddings [B, N, D].

        Without a mask nothing is padding, and where positions begin again another item begins.
        """
        output = self.vlm.model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [..., W] of hidden states [..., D]."""
        return self.vlm.lm_head(hidden)

    @torch.no_grad()
    def generate(
        self, embeds: Tensor, mask: Tensor, positions: Tensor, *, max_new_tokens: int
    ) -> list[str]:
        """Greedy answers to left-padded prompt embeddings [B, N, D]; special tokens removed."""
        eos = self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id
        ids = self.vlm.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            # Some bases ask for a penalty, which would see the answer here and not the question.
            repetition_penalty=1.0,
            eos_token_id=self._stops(),
            pad_token_id=eos if pad is None else pad,
        )
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _stops(self) -> list[int]:
        """The tokens that end an answer: the tokenizer's, and those that the base names besides."""
        named = self.vlm.generation_config.eos_token_id
        named = [named] if isinstance(named, int) else named or []
        return sorted({self.tokenizer.eos_token_id, *named})


def as_square(shares: Tensor) -> Tensor:
    """[n * n] -> [n, n]; ConfigError for a number that is no square."""
    side = isqrt(len(shares))
    if side**2 != len(shares):
        raise ConfigError(
            f"{len(shares)} image positions form no square, so they cannot be laid over the "
            "image: use a base with vision_feature_select_strategy 'default'"
        )
    return shares.view(side, side)
