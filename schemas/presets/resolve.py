"""From a preset and what people turn to the config tree of a run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from schemas.config import (
    NOTHING,
    PARTS,
    HeldOut,
    PipelineConfig,
    Ratio,
    SourceConfig,
    Stage,
    TrainConfig,
)
from schemas.errors import ConfigError
from schemas.explain import did_you_mean, explain
from schemas.frozen import Frozen
from schemas.shipped import read_toml

HUB_AT = re.compile(r"(?P<name>[\w-][\w.-]*/[\w.-]+)@(?P<revision>[\w./-]+)")
# What a preset file may hold beside the config tree's own keys.
ALSO = ("method", "taxonomy", "held_out", "extends")
# What trains or calibrates, and so has a seed and may hold something out.
TRAINING = ("balance", "stage2_balance", *(stage.value for stage in Stage))
# One table of a preset fills both places of the tree: a fault in it is told once.
TWINS = {"stage2_balance": "balance", Stage.ALIGNMENT.value: Stage.CONCEPTS.value}


class Parameters(Frozen):
    """What people turn: top-level scalars, since a run's parameters replace a deployment's whole.

    `sources` replaces the preset's sources; `base` is a model's folder, s3://bucket/folder or hub
    name, with @revision if one is meant; `method` a named variant laid over the preset's
    (schemas/methods); `seed` is that of the training order and of both stages, so that runs of
    several seeds share all data; `held_out` goes beyond what the preset holds out.
    """

    preset: str = "tiny"
    sources: tuple[SourceConfig, ...] = ()
    base: str = ""
    method: str = ""
    clean_per_unsafe: Ratio | None = None
    stage2_clean_per_unsafe: Ratio | None = None
    seed: int | None = Field(default=None, ge=0)
    held_out: HeldOut = NOTHING

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> "Parameters":
        """Parameters from anywhere; ConfigError in one line for a value that no run can have."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error.errors(), cls)) from error


def resolve(parameters: Parameters) -> PipelineConfig:
    """The config of a run.

    Raises:
        ConfigError: unknown preset or method, or one with wrong or unknown fields.
    """
    tree = _read(parameters.preset)
    if parameters.method:
        named = read_toml(parameters.method, folder="methods", what="method")
        tree = _laid_over(tree, {"method": named})
    tree = _spread(tree, parameters.preset)
    _override(tree, parameters)
    try:
        config = PipelineConfig.model_validate({"preset": parameters.preset, **tree})
    except ValidationError as error:
        told = explain(_once(error.errors()), PipelineConfig, also=ALSO)
        raise ConfigError(f"preset {parameters.preset!r}: {told}") from error
    return _for_sources(_for_method(config))


def _for_method(config: PipelineConfig) -> PipelineConfig:
    """The config with those of the preset's parts that the method has.

    Raises:
        ConfigError: a part that no stage has, or none that the method's stage could take.
    """
    tree = config.model_dump()
    for stage in (config.stage1, config.stage2):
        tree[stage.stage.value]["parts"] = _own_parts(stage)
    return PipelineConfig.model_validate(tree)


def _own_parts(config: TrainConfig) -> dict[str, Any]:
    known, place = PARTS[config.stage], config.stage.value
    if strange := sorted(config.parts.keys() - set(known)):
        raise ConfigError(
            f"unknown part {strange[0]!r} of {place}; "
            f"{did_you_mean(strange[0], known)}parts: {', '.join(known)}"
        )
    wanted = [name for name in known if config.method.has_part(name)]
    own = {name: part.model_dump() for name, part in config.parts.items() if name in wanted}
    if wanted and config.parts and not own:
        raise ConfigError(
            f"this method trains {' and '.join(map(repr, wanted))} in {place}, and the preset says "
            f"only how to train {', '.join(config.parts)}: add [{place}.parts.{wanted[0]}] to it"
        )
    return own


def _for_sources(config: PipelineConfig) -> PipelineConfig:
    """The config with what depends on where the data come from: the world's, or one's own."""
    of_world = [_of_world(source) for source in config.ingest.sources]
    tree = config.model_dump()
    if not any(of_world):
        tree["world"] = None
    for name in ("report", "audit"):
        if tree[name]["blur"] is None:
            tree[name]["blur"] = not (of_world and all(of_world))
    return PipelineConfig.model_validate(tree)


def _read(name: str, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """A preset's tree, laid over the preset that it `extends`."""
    if name in below:
        raise ConfigError(
            f"preset {name!r} extends itself: {' -> '.join((*below, name))}; "
            "take `extends` out of one of them"
        )
    tree = read_toml(name, folder="presets", what="preset")
    if "preset" in tree:
        raise ConfigError(
            f"preset {name!r}: unknown key 'preset'; to build on another one write extends = "
            f"{tree['preset']!r}"
        )
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ConfigError(f"preset {name!r}: extends = {parent!r}: one name or path was expected")
    # A path is meant from where the file lies, not from where the command happens to run.
    own = parent.endswith(".toml")
    over = str(Path(name).parent / parent) if own else parent
    return _laid_over(_read(over, (*below, name)), tree)


def _laid_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def _spread(tree: dict[str, Any], preset: str) -> dict[str, Any]:
    """Put what a preset states once (ALSO, but `extends`) where the config wants it."""
    tree = {**tree}
    method, taxonomy = tree.pop("method", {}), tree.pop("taxonomy", "taxonomy")
    reading = ("ingest", "validation", "evaluate", "audit", *Stage)  # the taxonomy
    sections = (*reading, "balance", "stage2_balance")
    for name in map(str, sections):
        if not isinstance(tree.setdefault(name, {}), dict):
            raise ConfigError(
                f"preset {preset!r}: {name} = {tree[name]!r:.80}: a table [{name}] was expected"
            )
    for name in map(str, reading):
        tree[name] = {"taxonomy": taxonomy, **tree[name]}
    for stage in Stage:
        tree[stage.value] = {"stage": stage, "method": method, **tree[stage.value]}
    if (held_out := tree.pop("held_out", None)) is not None:
        for name in TRAINING:
            tree[name] = {"held_out": held_out, **tree[name]}
    return tree


def _override(tree: dict[str, Any], parameters: Parameters) -> None:
    balance = tree["balance"]
    if parameters.clean_per_unsafe is not None:
        balance["clean_per_unsafe"] = parameters.clean_per_unsafe
    second = {**balance, "with_answers_only": True, **tree["stage2_balance"]}
    if parameters.stage2_clean_per_unsafe is not None:
        second["clean_per_unsafe"] = parameters.stage2_clean_per_unsafe
    tree["stage2_balance"] = second
    if parameters.sources:
        tree["ingest"]["sources"] = [s.model_dump() for s in parameters.sources]
    if parameters.base:
        tree["base"] = {"kind": "pretrained", **_base_named(parameters.base)}
    if parameters.seed is not None:
        for name in TRAINING:
            tree[name]["seed"] = parameters.seed
    if parameters.held_out != NOTHING:
        for name in TRAINING:
            tree[name]["held_out"] = parameters.held_out.model_dump()


def _base_named(base: str) -> dict[str, str]:
    """`owner/model@revision` is a hub name with its revision; all else is a name as it stands."""
    found = HUB_AT.fullmatch(base)
    return {"name": base} if found is None else found.groupdict()


def _of_world(source: SourceConfig) -> bool:
    return source.uri.startswith("world:") or source.images.startswith("world:")


def _once(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Errors without those that repeat another's in the twin of its table."""
    told: dict[tuple[Any, ...], ErrorDetails] = {}
    for error in errors:
        head, *rest = error["loc"]
        place = (TWINS.get(str(head), head), *rest, error["msg"], repr(error["input"]))
        told.setdefault(place, error)
    return list(told.values())
