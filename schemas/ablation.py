"""An ablation: which methods are set beside each other, and what a row of its table says."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, field_validator

from schemas.artifact import Artifact
from schemas.config import NOTHING, HeldOut, MethodConfig, only_risks
from schemas.errors import ConfigError
from schemas.explain import did_you_mean, explain
from schemas.frozen import Frozen
from schemas.report import METRICS, Metric
from schemas.shipped import shipped
from schemas.sweep import ALL_DIFFERENT, MOST_POINTS, SWEEP_METRICS, Seeds

# From nothing at all to all of it. Those left out change one part of a preset's own method (mlp-*).
METHODS = [
    "base", "hint-only", "sft-clean", "sft", "tokens-only", "head-only", "no-projector", "psa-vlm",
    "safevlm", "safevlm-lora", "guard-mlp", "psavlm-plus",
]  # fmt: skip
SEEDS = [1, 2, 3]
OneMethod = Annotated[str, Field(pattern=f"^({'|'.join(shipped('methods'))}|.+[.]toml)$")]
Methods = Annotated[
    list[OneMethod],
    Field(min_length=1, max_length=MOST_POINTS, json_schema_extra=ALL_DIFFERENT),
]
HoldOut = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(max_length=MOST_POINTS, json_schema_extra=ALL_DIFFERENT),
]
# Name -> what it says, in the order of the table. Lower is better where it says so.
ABLATION_METRICS = {
    name: {**METRICS, **SWEEP_METRICS}[name]
    for name in (
        "risky_obeyed", "risky_correctly_refused", "all_benign_refused", "benign_refused",
        "near_miss_refused", "all_benign_exact", "type_accuracy", "level_accuracy",
    )
}  # fmt: skip
# What is told of a guard at another attack success than its own.
EQUAL_METRICS = {
    name: ABLATION_METRICS[name]
    for name in ("risky_obeyed", "all_benign_refused", "benign_refused", "near_miss_refused")
}
# The method that the others are set beside there, and the attack successes beside its own.
REFERENCE, TARGETS = "psa-vlm", (0.01, 0.02, 0.05)
# What is told of items that a method has not learnt from.
HELD_METRICS = {
    name: {**METRICS, **SWEEP_METRICS}[name]
    for name in (
        "risky_obeyed", "risky_correctly_refused", "guard_missed", "all_benign_refused",
        "guard_false_positive", "type_accuracy",
    )
}  # fmt: skip
# What a method is made of, as far as the table tells it.
PARTS = ("projector", "head", "query", "llm_tokens", "intervention", "threshold", "stage2")


class AblationParameters(Frozen):
    """What is an ablation's own; everything else is a run's (schemas/presets).

    Each of `hold_out_sources` and `hold_out_types` has every method that trains trained once more,
    without it (HeldOut).
    """

    methods: Methods
    seeds: Seeds
    hold_out_sources: HoldOut = []
    hold_out_types: Annotated[HoldOut, AfterValidator(only_risks)] = []

    @field_validator("methods", mode="before")
    @classmethod
    def _known(cls, methods: Any) -> Any:
        known = shipped("methods")
        for name in methods if isinstance(methods, list | tuple) else ():
            if isinstance(name, str) and not name.endswith(".toml") and name not in known:
                raise ValueError(
                    f"unknown method {name!r}; {did_you_mean(name, known)}give some of "
                    f"{', '.join(known)}, or the paths of .toml files"
                )
        return methods

    @field_validator("methods", "seeds", "hold_out_sources", "hold_out_types")
    @classmethod
    def _all_different(cls, values: list[Any]) -> list[Any]:
        names = [label(value) if isinstance(value, str) else value for value in values]
        if len(set(names)) < len(names):
            raise ValueError(f"must be all different: {names}")
        return values

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> "AblationParameters":
        """Parameters from anywhere; ConfigError in one line for a value that cannot be."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error.errors(), cls)) from error


class MethodPoint(Frozen):
    """One method and seed: its judged answers and the model behind them, if any; or why not.

    `both_ways`: by stage, the answers of a guard at every threshold; `held_out`: what it was
    trained without.
    """

    method: str
    seed: int
    parts: MethodConfig
    evaluated: Artifact | None = None
    model: Artifact | None = None
    both_ways: dict[str, Artifact] = {}
    held_out: HeldOut = NOTHING
    error: str = ""

    @property
    def name(self) -> str:
        """What tells it from the others."""
        held = f" without {self.held_out.told}" if self.held_out != NOTHING else ""
        return f"{self.method} seed {self.seed}{held}"


class AblationRow(Frozen):
    """One row of the table: a method, of one seed or (`seed` None) of all that succeeded.

    `error`: why a method failed with this seed; the row then has no numbers.
    """

    method: str
    seed: int | None
    seeds: int
    error: str | None = None
    projector: str
    head: str
    query: str
    llm_tokens: str
    intervention: str
    threshold: str
    stage2: str
    metrics: dict[str, Metric] = {}


class EqualRow(Frozen):
    """A guard set to an attack success: what of `risky_obeyed` is allowed, and what it costs.

    `stage` is the model's last, `target` says the attack success in words, `refused_more` what it
    refuses of the benign beyond the reference at the same attack success; None where some seed
    reaches it at no threshold.
    """

    stage: str
    target: str
    method: str
    seeds: int
    metrics: dict[str, Metric] = {}
    refused_more: Metric | None = None
    finding: str


class HeldOutRow(Frozen):
    """Items of a source or type, by a method that was trained `with it` or `without it`."""

    method: str
    held_out: str
    trained: str
    seeds: int
    metrics: dict[str, Metric]


def label(method: str) -> str:
    """What a method is called in the table: its name, or its file's name without folders."""
    return PurePosixPath(method).name.removesuffix(".toml")
