"""A trained model on disk: safetensors and JSON only, no pickle (DESIGN.md section 4).

A published model folder holds `model.json` (what it is and what base it belongs to),
`safety.safetensors`, and after stage 2 peft's `adapter_config.json` and
`adapter_model.safetensors`, or for stage 2 `full` the changed weights of language model and
projector in `language.safetensors`, named as in the base.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from model.backbone import Backbone
from model.lora import load_lora, lora_parameters, save_lora
from model.policy import GuardPolicy
from model.psavlm import PsaVlm
from model.stages import trained_by
from model.tensors import copy_tensors, read_record, read_tensors, write_tensors
from schemas.config import MethodConfig, Stage
from schemas.errors import ConfigError
from schemas.frozen import Frozen
from schemas.hints import Hints
from schemas.taxonomy import Taxonomy

CARD, SAFETY, LANGUAGE = "model.json", "safety.safetensors", "language.safetensors"
PREFIX = "llava."  # of every family's tensors in LANGUAGE: so they are called since format 1


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
    return read_record(folder / CARD, ModelCard)


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
