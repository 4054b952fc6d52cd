"""The part of a base that sees: what encodes images, without the language model's layers.

A 7B base is 28 GB in float32, and its encoder 1.2 GB. What is left of the language model is its
table of words and its head; h_o is the whole model's, bit by bit.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from model.backbone import Backbone, Size
from model.backbones.registry import family_of
from model.pretrained import check_settings, read_settings
from schemas.errors import StorageError


def load_sight(folder: Path, *, dtype: torch.dtype = torch.float32) -> Backbone:
    """The frozen encoder of a base's folder, on the GPU if there is one; it answers nothing.

    Raises:
        ConfigError: a family without a class here.
        StorageError: nothing readable in that folder.
    """
    sight = _opened(folder, dtype)
    sight.freeze()
    if torch.cuda.is_available():
        sight.to("cuda")
    return sight


def outline(folder: Path) -> Backbone:
    """The same without weights: it tells V, P and grids, and takes no memory. Errors as above."""
    return _opened(folder, None)


def patches_of(sight: Backbone, size: Size) -> int:
    """P of an image of that height and width."""
    if sight.patches is not None:
        return sight.patches
    return sum(rows * columns for rows, columns in sight.grids(size))


def _opened(folder: Path, dtype: torch.dtype | None) -> Backbone:
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        settings = read_settings(folder / "config.json")
        check_settings(str(folder), settings)
        family = family_of(str(settings.get("model_type", "")))
        config = AutoConfig.from_pretrained(folder, **source)
        _cut(config.text_config)
        if dtype is None:
            with torch.device("meta"):
                vlm = family.MODEL(config)
        else:
            vlm = _quietly(family.MODEL, folder, config=config, dtype=dtype, **source)
        tokenizer = AutoTokenizer.from_pretrained(folder, **source)
        images = family.IMAGES.from_pretrained(folder, **source)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"no base model readable at {folder}: {error}; run the base step again"
        ) from error
    return family(vlm, tokenizer, images)


def _cut(language: Any) -> None:
    """Leave the language model without layers."""
    language.num_hidden_layers = 0
    if getattr(language, "layer_types", None) is not None:
        language.layer_types = []


def _quietly(model: Any, folder: Path, **options: Any) -> Any:
    """Load without the long report on the weights that are left out."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return model.from_pretrained(folder, use_safetensors=True, **options)
    finally:
        logging.set_verbosity(before)
