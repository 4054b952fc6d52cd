"""Named tensors on disk and into place: safetensors only, strict about names and shapes."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas.errors import StorageError


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors of any device by name, in the order of their names."""
    save_file({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU.

    Raises:
        StorageError: missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} is not readable as safetensors: {error}") from error


def digest(tensors: Iterable[Tensor]) -> str:
    """sha256 of the tensors' values as bfloat16, one behind the other; "" if one has no values."""
    found = sha256()
    for tensor in tensors:
        if tensor.is_meta:
            return ""
        rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        found.update(rounded.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def copy_tensors(
    stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, where: Path
) -> None:
    """Copies stored values into the tensors of the same names, all or nothing.

    Raises:
        StorageError: missing or surplus tensors, other shapes or kinds of numbers, named.
    """
    missing, surplus = sorted(wanted.keys() - stored), sorted(stored.keys() - wanted)
    both = sorted(wanted.keys() & stored)
    shapes = [n for n in both if wanted[n].shape != stored[n].shape]
    kinds = [n for n in both if wanted[n].is_floating_point() != stored[n].is_floating_point()]
    if missing or surplus or shapes or kinds:
        raise StorageError(
            f"{where} does not fit this model: missing {missing[:5]}, surplus {surplus[:5]}, "
            f"other shapes {shapes[:5]}, other types {kinds[:5]}; the JSON file beside it says "
            "what it was made for"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])
