"""Whether a model's weights fit into the memory that is free: told by file headers, before loading.

Without this a model that is too large is killed by the system in the middle of its loading, without
a word.
"""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import psutil
import torch

from schemas.errors import ConfigError, StorageError

# Bytes of a value as stored; floating types are loaded as another one.
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
OTHERS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
GROUP = Path("/sys/fs/cgroup")
MOST_HEADER = 100_000_000  # bytes: what the format itself allows


def check_memory(folder: Path, dtype: torch.dtype) -> None:
    """Whether the weights in a folder fit into free memory when loaded as `dtype`.

    Raises:
        ConfigError: they do not; names both figures.
        StorageError: a file is no safetensors.
    """
    needed, free = weight_bytes(folder, dtype), free_bytes()
    if needed > free:
        raise ConfigError(
            f"the weights in {folder} need {needed:,} bytes as {str(dtype).removeprefix('torch.')}"
            f", and {free:,} bytes of memory are free: take a smaller model, end other programs, "
            "or use a machine with more memory"
        )


def weight_bytes(folder: Path, dtype: torch.dtype) -> int:
    """Bytes of all tensors in a folder's safetensors once they are loaded as `dtype`."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        for name, entry in _header(file).items():
            if name != "__metadata__":
                kind = entry["dtype"]
                # A type that this list does not know is counted as if it were loaded as `dtype`.
                size = dtype.itemsize if kind in FLOATS else OTHERS.get(kind, dtype.itemsize)
                total += prod(entry["shape"]) * size
    return total


def free_bytes() -> int:
    """Memory that a process can still have: the machine's, or what a container's limit leaves."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (GROUP / "memory.max").read_text().strip()
        used = int((GROUP / "memory.current").read_text())
        told = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        # Files read of late count as used, and are given up as soon as memory is asked for.
        used -= int(told.get("inactive_file", 0))
    except (OSError, ValueError):  # no such limits here
        return free
    return min(free, int(limit) - used) if limit.isdecimal() else free


def _header(file: Path) -> dict[str, dict[str, Any]]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MOST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            found: dict[str, dict[str, Any]] = json.loads(stream.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise StorageError(f"{file} is not readable as safetensors: {error}") from error
    return found
