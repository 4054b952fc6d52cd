"""Named tensors on disk and into place: safetensors only, strict about names and shapes."""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from schemas.errors import StorageError
from schemas.frozen import Frozen

Record = TypeVar("Record", bound=Frozen)


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


def whole(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Copies in the CPU's memory, of tensors in shards (model/shards.py) put together.

    Args:
        tensors: of the same names on every worker; all of them must call this.
        keep: whether this worker wants them; the others get none.
    """
    found = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if keep:
            found[name] = tensor.detach().to("cpu", copy=True)
    return found


def copy_tensors(
    stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, where: Path
) -> None:
    """Copies stored values into the tensors of the same names, all or nothing.

    A tensor in shards takes its worker's part of the whole that is stored.

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
            tensor.copy_(_part(stored[name], tensor))


def _part(stored: Tensor, tensor: Tensor) -> Tensor:
    """What of a whole tensor belongs into `tensor`."""
    if not isinstance(tensor, DTensor):
        return stored
    # No source rank: every worker has read the whole by itself.
    return distribute_tensor(
        stored.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None
    )


def read_record(path: Path, kind: type[Record]) -> Record:
    """What a JSON file holds; StorageError if it is missing or no such record."""
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} is not a readable {kind.__name__}: {error}") from error
