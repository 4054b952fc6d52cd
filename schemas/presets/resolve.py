"""From a preset and what people turn to the config tree of a run."""

from typing import Any

from pydantic import Field, ValidationError

from schemas.config import PipelineConfig, Ratio, SourceConfig, Stage
from schemas.errors import ConfigError
from schemas.frozen import Frozen
from schemas.taxonomy import read_toml


class Parameters(Frozen):
    """What people turn: top-level scalars, since a run's parameters replace a deployment's whole.

    `sources` replaces the preset's sources; `base` is a LLaVA folder or hub name; `seed` is that
    of the training order and of both stages, so that runs of several seeds share all data.
    """

    preset: str = "tiny"
    sources: tuple[SourceConfig, ...] = ()
    base: str = ""
    clean_per_unsafe: Ratio | None = None
    stage2_clean_per_unsafe: Ratio | None = None
    seed: int | None = Field(default=None, ge=0)


def resolve(parameters: Parameters) -> PipelineConfig:
    """The config of a run.

    Raises:
        ConfigError: unknown preset, or a preset with wrong or unknown fields.
    """
    tree = _read(parameters.preset)
    method = tree.pop("method", {})
    taxonomy = tree.pop("taxonomy", "taxonomy")
    for name in ("ingest", "validation", "evaluate", "stage1", "stage2"):
        tree.setdefault(name, {}).setdefault("taxonomy", taxonomy)
    for stage in Stage:
        tree[stage.value] = {"stage": stage, "method": method, **tree[stage.value]}
    _override(tree, parameters)
    try:
        return PipelineConfig.model_validate({"preset": parameters.preset, **tree})
    except ValidationError as error:
        raise ConfigError(f"preset {parameters.preset!r}: {explain(error)}") from error


def _read(name: str) -> dict[str, Any]:
    """A preset's tree, laid over the preset that it `extends`."""
    tree = read_toml(name, folder="presets", what="preset")
    parent = tree.pop("extends", None)
    return _laid_over(_read(parent), tree) if parent else tree


def _laid_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def _override(tree: dict[str, Any], parameters: Parameters) -> None:
    balance = tree.setdefault("balance", {})
    if parameters.clean_per_unsafe is not None:
        balance["clean_per_unsafe"] = parameters.clean_per_unsafe
    second = {**balance, "with_answers_only": True, **tree.get("stage2_balance", {})}
    if parameters.stage2_clean_per_unsafe is not None:
        second["clean_per_unsafe"] = parameters.stage2_clean_per_unsafe
    tree["stage2_balance"] = second
    if parameters.sources:
        tree["ingest"]["sources"] = [s.model_dump() for s in parameters.sources]
    if not any(_of_world(source) for source in tree["ingest"].get("sources", [])):
        tree.pop("world", None)
    if parameters.base:
        tree["base"] = {"kind": "pretrained", "name": parameters.base}
    if parameters.seed is not None:
        for name in ("balance", "stage2_balance", "stage1", "stage2"):
            tree[name]["seed"] = parameters.seed


def _of_world(source: dict[str, Any]) -> bool:
    return any(str(source.get(key, "")).startswith("world:") for key in ("uri", "images"))


def explain(error: ValidationError) -> str:
    """A validation error as one line: place, what was given, what is wrong."""
    return "; ".join(
        f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']} (given: {str(e['input'])[:80]!r})"
        for e in error.errors()
    )
