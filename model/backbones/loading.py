"""A base from its files: the family by config.json, weights from safetensors, no code of theirs."""

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig

from model.backbone import Backbone
from model.backbones.registry import family_of
from model.memory import check_memory
from model.pretrained import SETTINGS, check_settings
from model.quantise import four_bit
from schemas.errors import StorageError


def load(
    name: str,
    *,
    revision: str = "",
    dtype: torch.dtype = torch.float32,
    four_bit_on: torch.device | None = None,
) -> Backbone:
    """A model folder, or a hub name when no such folder exists.

    With `four_bit_on` it lies on that device, its language model's layers in NF4.

    Raises:
        ConfigError: a family without a class here, weights that must be converted first, or that
            are larger than the memory that is free.
        StorageError: nothing readable under that name.
    """
    source: dict[str, Any] = {
        "revision": revision or "main",
        "local_files_only": Path(name).is_dir(),
        "trust_remote_code": False,
    }
    try:
        settings, _ = PreTrainedConfig.get_config_dict(name, **source)
        if not settings or not isinstance(settings, dict):
            raise OSError(f"there is no {SETTINGS} of a model")
        check_settings(name, settings)
        family = family_of(str(settings.get("model_type", "")))
        place: dict[str, Any] = {}
        if four_bit_on is not None:
            place = four_bit(four_bit_on, dtype)
        elif Path(name).is_dir():
            check_memory(Path(name), dtype)
        vlm = _weights(family, name, dtype, {**place, **source})
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
        images = family.IMAGES.from_pretrained(name, **source)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"no base model readable at {name!r}: {error}. Give a folder with config.json, "
            "*.safetensors, tokenizer and image processor, or a hub name (and go online)"
        ) from error
    return family(vlm, tokenizer, images)


def _weights(
    family: type[Backbone], name: str, dtype: torch.dtype, source: dict[str, Any]
) -> nn.Module:
    """The model with all of its weights from the files.

    Raises:
        OSError: weights that are missing, of other shapes, or damaged.
    """
    try:
        vlm, told = family.MODEL.from_pretrained(
            name, dtype=dtype, use_safetensors=True, output_loading_info=True, **source
        )
    except (SafetensorError, RuntimeError) as error:
        raise OSError(
            f"weights that are damaged or of other shapes ({_first_line(error)})"
        ) from error
    # transformers would draw at random what the files lack.
    if missing := sorted(map(str, told["missing_keys"])):
        raise OSError(f"{len(missing)} weights are missing, the first {missing[0]!r}")
    return cast(nn.Module, vlm)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
