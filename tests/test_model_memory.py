"""A model larger than free memory is refused before it is read, with both figures."""

import json
import struct

import pytest
import torch

from model import memory
from model.backbone import Backbone
from model.memory import check_memory, free_bytes, weight_bytes
from model.tensors import write_tensors
from schemas.errors import ConfigError, StorageError


def headed(path, **tensors) -> None:
    """A safetensors file by its header alone: nothing of the weights is there."""
    entries = {
        name: {"dtype": kind, "shape": shape, "data_offsets": [0, 0]}
        for name, (kind, shape) in tensors.items()
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_the_bytes_are_those_of_the_tensors_as_they_will_be_loaded(tmp_path):
    floats = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16)}
    write_tensors(tmp_path / "one.safetensors", floats)
    write_tensors(tmp_path / "two.safetensors", {"c": torch.zeros(2, dtype=torch.int64)})
    assert weight_bytes(tmp_path, torch.float32) == (15 + 7) * 4 + 2 * 8
    assert weight_bytes(tmp_path, torch.bfloat16) == (15 + 7) * 2 + 2 * 8


def test_a_model_larger_than_free_memory_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    headed(tmp_path / "model.safetensors", weight=("BF16", [1 << 22, 1 << 22]))
    needed = f"{4 << 44:,} bytes as float32"
    with pytest.raises(ConfigError, match=needed) as error:
        Backbone.load(str(tmp_path))
    free = int(str(error.value).split(", and ")[1].split(" bytes")[0].replace(",", ""))
    assert free == pytest.approx(free_bytes(), rel=0.2)
    assert "\n" not in str(error.value)
    headed(tmp_path / "model.safetensors", weight=("BF16", [2, 2]))
    check_memory(tmp_path, torch.float32)


def test_a_containers_limit_counts_where_it_is_tighter(tmp_path, monkeypatch):
    limit, used, told = (tmp_path / f"memory.{name}" for name in ("max", "current", "stat"))
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    machine = free_bytes()
    assert machine > 0
    limit.write_text("1000\n")
    used.write_text("700\n")
    told.write_text("anon 400\ninactive_file 300\n")  # a file's pages are given up when asked for
    assert free_bytes() == 600
    limit.write_text("max\n")
    assert free_bytes() == pytest.approx(machine, rel=0.2)


@pytest.mark.parametrize("content", [b"", b"no tensors at all", struct.pack("<Q", 1 << 62)])
def test_a_file_that_is_no_safetensors_is_a_storage_error(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(StorageError, match="model.safetensors is not readable as safetensors"):
        check_memory(tmp_path, torch.float32)
