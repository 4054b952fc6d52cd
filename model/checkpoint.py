"""What training leaves on disk: safetensors and JSON only, no pickle (DESIGN.md section 4).

A published model folder holds `model.json` (what it is and what base it belongs to),
`safety.safetensors`, and after stage 2 peft's `adapter_config.json` and
`adapter_model.safetensors`, or for stage 2 `full` the changed weights of language model and
projector in `language.safetensors`, named as in the base. A training state
(`state.json`, `state.safetensors`) is for exact resume of one part of a stage.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from model.backbone import Backbone
from model.lora import load_lora, lora_parameters, save_lora
from model.policy import GuardPolicy
from model.psavlm import PsaVlm
from model.stages import trained_by
from model.tensors import copy_tensors, read_tensors, write_tensors
from schemas.config import MethodConfig, Stage
from schemas.errors import ConfigError, StorageError
from schemas.frozen import Frozen
from schemas.hints import Hints
from schemas.taxonomy import Taxonomy

CARD, SAFETY, LANGUAGE = "model.json", "safety.safetensors", "language.safetensors"
STATE, STATE_TENSORS = "state.json", "state.safetensors"
PREFIX = "llava."  # of every family's tensors in LANGUAGE: so they are called since format 1
PARAMETER, MOMENTS = "parameter/", ("step", "exp_avg", "exp_avg_sq")
Record = TypeVar("Record", bound=Frozen)


class BaseReference(Frozen):
    """The base that a model was trained on: a folder, address or hub name, and its revision.

    `digest` is `Backbone.digest`, by which another one is known.
    """

    name: str
    revision: str = ""
    digest: str = ""


class ModelCard(Frozen):
    """`model.json`: all that is needed to build the modules again, and to refuse another base."""

    format: Literal[1] = 1
    stage: Stage
    method: MethodConfig
    taxonomy: Taxonomy
    hints: Hints
    base: BaseReference
    architecture: str = ""
    vision_dim: int
    llm_dim: int
    adapter: bool
    full: bool = False
    # PsaVlm.trains_with of this stage; left out where all was as usual.
    trained_with: Annotated[dict[str, str], Field(exclude_if={}.__eq__)] = {}
    policy: GuardPolicy = GuardPolicy()


class TrainingState(Frozen):
    """Where a part of a stage stands: `step` optimiser steps are done; `note` is the caller's."""

    format: Literal[1] = 1
    stage: Stage
    part: str
    step: int
    note: dict[str, Any] = {}


def save_model(  # noqa: PLR0913 - the fields of the card
    folder: Path,
    model: PsaVlm,
    *,
    stage: Stage,
    method: MethodConfig,
    taxonomy: Taxonomy,
    hints: Hints,
    base: BaseReference,
    policy: GuardPolicy | None = None,
    language: Mapping[str, Tensor] | None = None,
) -> ModelCard:
    """Writes the safety modules, what stage 2 has trained if there is any, `model.json` last.

    `language` are the whole tensors of `language_weights`, where the model has but shards of them.
    """
    card = ModelCard(
        stage=stage,
        method=method,
        taxonomy=taxonomy,
        hints=hints,
        base=base.model_copy(update={"digest": model.backbone.digest}),
        architecture=model.backbone.config.model_type,
        vision_dim=model.backbone.vision_dim,
        llm_dim=model.backbone.llm_dim,
        adapter=bool(lora_parameters(model.backbone)),
        full=stage is Stage.ALIGNMENT and method.stage2 == "full",
        trained_with=model.trains_with,
        policy=policy or GuardPolicy(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / SAFETY, model.safety.state_dict())
    if card.adapter:
        save_lora(folder, model.backbone)
    if card.full:
        own = language_weights(model) if language is None else language
        write_tensors(folder / LANGUAGE, own)
    (folder / CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return card


def language_weights(model: PsaVlm) -> dict[str, Tensor]:
    """What stage 2 `full` trains, by name within the base and the prefix of its files."""
    return as_language(trained_by(model, Stage.ALIGNMENT, "full"))


def as_language(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same of parameters named as in the model."""
    return {PREFIX + name.removeprefix("backbone.vlm."): t.detach() for name, t in trained.items()}


def load_card(folder: Path) -> ModelCard:
    """`model.json` of a published folder.

    Raises:
        StorageError: no such file, or one that is damaged or of another format.
    """
    return _read(folder / CARD, ModelCard)


def load_model(folder: Path, backbone: Backbone) -> tuple[PsaVlm, ModelCard]:
    """Safety modules, and what stage 2 trained put into `backbone`, ready to answer.

    Raises:
        ConfigError: the backbone has other widths, or carries an adapter already.
        StorageError: damaged files, or tensors that do not fit.
    """
    card = load_card(folder)
    kind = backbone.config.model_type
    have = (kind, backbone.vision_dim, backbone.llm_dim)
    # Cards of the first format name no architecture.
    want = (card.architecture or kind, card.vision_dim, card.llm_dim)
    if have != want or lora_parameters(backbone):
        raise ConfigError(
            f"{folder} belongs to base {card.base.name!r} ({want[0]}, widths {want[1]}, {want[2]}) "
            f"without an adapter; given {kind}, widths {have[1:]}, "
            f"{len(lora_parameters(backbone))} adapter tensors: load that base afresh"
        )
    if card.base.digest and card.base.digest != backbone.digest:
        raise ConfigError(
            f"{folder} belongs to base {card.base.name!r}, and other weights of the same shape "
            "were given: its answers would be worth nothing. Load that base, in that revision"
        )
    taxonomy = card.taxonomy
    model = PsaVlm.new(
        backbone, card.method, types=len(taxonomy.types), levels=len(taxonomy.levels)
    )
    copy_tensors(read_tensors(folder / SAFETY), model.safety.state_dict(), where=folder / SAFETY)
    if card.adapter:
        load_lora(folder, backbone, card.method)
    if card.full:
        where = folder / LANGUAGE
        copy_tensors(read_tensors(where), language_weights(model), where=where)
    return model.eval(), card


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


def load_state(
    folder: Path, trained: Mapping[str, Tensor], optimizer: torch.optim.AdamW
) -> TrainingState:
    """Puts parameters and moments back in place; going on is bit-identical to never stopping.

    Raises:
        StorageError: damaged files, or tensors that do not fit.
    """
    names = _names(trained, optimizer)
    state = _read(folder / STATE, TrainingState)
    stored = read_tensors(folder / STATE_TENSORS)
    wanted = {PARAMETER + name: p for name, p in trained.items()}
    moments = {}
    for index, name in enumerate(names if state.step else ()):
        p = trained[name]
        like = (torch.zeros(()), torch.zeros_like(p), torch.zeros_like(p))
        moments[index] = dict(zip(MOMENTS, like, strict=True))
        wanted |= {f"{key}/{name}": moments[index][key] for key in MOMENTS}
    copy_tensors(stored, wanted, where=folder / STATE_TENSORS)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return state


def _names(trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> list[str]:
    """The parameters' names in the optimiser's order."""
    names = {id(p): name for name, p in trained.items()}
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    if sorted(held) != sorted(names):
        raise ConfigError("the optimiser holds other parameters than those to save or load")
    return [names[one] for one in held]


def _read(path: Path, kind: type[Record]) -> Record:
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} is not a readable {kind.__name__}: {error}") from error
