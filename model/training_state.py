"""Where one part of a stage stands, on disk, for exact resume: safetensors and JSON, no pickle.

`state.safetensors` has moments, and parameters where they are kept nowhere else; `state.json` the
steps done.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from model.tensors import copy_tensors, read_record, read_tensors, write_tensors
from schemas.config import Stage
from schemas.errors import ConfigError
from schemas.frozen import Frozen

STATE, STATE_TENSORS = "state.json", "state.safetensors"
PARAMETER, MOMENTS = "parameter/", ("step", "exp_avg", "exp_avg_sq")


class TrainingState(Frozen):
    """Where a part of a stage stands: `step` optimiser steps are done; `note` is the caller's."""

    format: Literal[1] = 1
    stage: Stage
    part: str
    step: int
    note: dict[str, Any] = {}


def state_tensors(trained: Mapping[str, Tensor], optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Parameters and AdamW moments by name.

    Args:
        trained: the parameters by name.
        optimizer: AdamW over exactly these.
    """
    _names(trained, optimizer)
    tensors = {PARAMETER + name: p.detach() for name, p in trained.items()}
    for name, parameter in trained.items():
        moments = optimizer.state.get(parameter, {})
        tensors |= {f"{key}/{name}": moments[key] for key in MOMENTS if key in moments}
    return tensors


def save_state(folder: Path, tensors: Mapping[str, Tensor], state: TrainingState) -> None:
    """Writes what `state_tensors` gave, and `state.json` last.

    Args:
        folder: made if missing.
        tensors: whole ones.
        state: stage, part and steps done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / STATE_TENSORS, tensors)
    (folder / STATE).write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")


class Stored(NamedTuple):
    """What `save_state` has written: the tensors, mapped from the file `where`."""

    state: TrainingState
    tensors: dict[str, Tensor]
    where: Path


def read_state(folder: Path) -> Stored:
    """What `save_state` has written.

    Raises:
        StorageError: missing or damaged files.
    """
    where = folder / STATE_TENSORS
    return Stored(read_record(folder / STATE, TrainingState), read_tensors(where), where)


def load_state(
    stored: Stored, trained: Mapping[str, Tensor], optimizer: torch.optim.AdamW
) -> TrainingState:
    """Puts moments, and parameters if there are any, back in place.

    Going on is bit-identical to never stopping.

    Raises:
        StorageError: tensors that do not fit.
    """
    names, state = _names(trained, optimizer), stored.state
    wanted: dict[str, Tensor] = {}
    if any(name.startswith(PARAMETER) for name in stored.tensors):
        wanted = {PARAMETER + name: p for name, p in trained.items()}
    moments = _new_moments([trained[name] for name in names] if state.step else [])
    for name, own in zip(names, moments, strict=False):
        wanted |= {f"{key}/{name}": own[key] for key in MOMENTS}
    copy_tensors(stored.tensors, wanted, where=stored.where)
    _put(moments, optimizer)
    return state


def allocate_moments(optimizer: torch.optim.AdamW) -> None:
    """Gives AdamW the zeros that its first step would begin with: their memory is taken now."""
    _put(_new_moments([p for group in optimizer.param_groups for p in group["params"]]), optimizer)


def _new_moments(parameters: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """AdamW's state of each parameter before its first step."""
    like = ((torch.zeros(()), torch.zeros_like(p), torch.zeros_like(p)) for p in parameters)
    return [dict(zip(MOMENTS, own, strict=True)) for own in like]


def _put(moments: Sequence[dict[str, Tensor]], optimizer: torch.optim.AdamW) -> None:
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(enumerate(moments)), "param_groups": groups})


def _names(trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> list[str]:
    """The parameters' names in the optimiser's order."""
    names = {id(p): name for name, p in trained.items()}
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    if sorted(held) != sorted(names):
        raise ConfigError("the optimiser holds other parameters than those to save or load")
    return [names[one] for one in held]
