"""LoRA on the language model: every linear layer except the output head (METHOD.md section 3).

peft puts its layers into the model in place, so that one `Backbone` carries at most one adapter.
Files are peft's own (adapter_config.json, adapter_model.safetensors): PeftModel reads them too.
"""

from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from model.backbone import Backbone
from model.tensors import copy_tensors, read_tensors, write_tensors
from schemas.config import MethodConfig
from schemas.errors import ConfigError

WEIGHTS = "adapter_model.safetensors"
# In peft's files names begin with its wrapper's path and leave the adapter's name out.
PREFIX, ADAPTER = "base_model.model.", "default"


def add_lora(backbone: Backbone, method: MethodConfig, *, seed: int = 0) -> None:
    """Adds untrained adapters (B = 0: the model still answers as before), drawn by `seed`.

    Raises:
        ConfigError: the backbone has adapters already.
    """
    if lora_parameters(backbone):
        raise ConfigError("this backbone carries an adapter already: load a fresh one")
    kinds = "|".join(sorted(_linear_kinds(backbone.vlm)))
    config = LoraConfig(
        r=method.lora_rank,
        lora_alpha=method.lora_alpha,
        lora_dropout=method.lora_dropout,
        target_modules=rf".*language_model\..*\.({kinds})",
        bias="none",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone.vlm, adapter_name=ADAPTER)
    if backbone.dtype.itemsize < torch.float32.itemsize:
        for parameter in lora_parameters(backbone).values():
            parameter.data = parameter.data.float()  # peft gives them the base's type


def lora_parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """Adapter parameters by their name in the model; empty without adapters."""
    return {name: p for name, p in backbone.vlm.named_parameters() if ".lora_" in name}


def save_lora(folder: Path, backbone: Backbone) -> None:
    """Writes an adapter's two files."""
    backbone.vlm.peft_config[ADAPTER].save_pretrained(str(folder))
    weights = {_file_name(name): p for name, p in lora_parameters(backbone).items()}
    write_tensors(folder / WEIGHTS, weights)


def load_lora(folder: Path, backbone: Backbone, method: MethodConfig) -> None:
    """Adds a folder's adapter to a backbone that has none; the method gives rank and alpha.

    Raises:
        ConfigError: the backbone has adapters already.
        StorageError: damaged, or names or shapes differ from those that the method asks for.
    """
    stored = read_tensors(folder / WEIGHTS)
    add_lora(backbone, method)
    wanted = {_file_name(name): p for name, p in lora_parameters(backbone).items()}
    copy_tensors(stored, wanted, where=folder / WEIGHTS)


def _linear_kinds(vlm: nn.Module) -> set[str]:
    return {
        name.rsplit(".", 1)[-1]
        for name, module in vlm.named_modules()
        if isinstance(module, nn.Linear) and "language_model." in name
    }


def _file_name(name: str) -> str:
    return PREFIX + name.replace(f".{ADAPTER}.", ".")
