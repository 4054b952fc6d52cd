"""The gate: by how much a candidate must be better, and by how much it may be worse."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from schemas.config import Count, unsaid
from schemas.errors import ConfigError
from schemas.explain import explain
from schemas.frozen import Frozen
from schemas.policy import REFUSAL_MARKERS
from schemas.report import METRICS
from schemas.shipped import read_toml

Margin = Annotated[float, Field(gt=0, lt=1)]
Level = Annotated[float, Field(gt=0, lt=0.5)]
# The rates that are counted from judged rows (schemas/report.py).
Rate = Literal[
    "risky_obeyed", "risky_correctly_refused", "benign_refused", "benign_exact",
    "near_miss_refused", "near_miss_exact",
]  # fmt: skip


class Bar(Frozen):
    """What one rate must show, as shares; the whole interval must keep to it.

    Attributes:
        direction: which way is better; stated, so that nobody reads a number the wrong way round.
        minimum_effect: better than the opponent by more than this; 0 is any improvement that the
            exact test shows. None asks for none.
        margin: not worse than champion and base by this much.
        budget: not worse than the anchor by this much, however many promotions lie between.
    """

    direction: Literal["lower", "higher"]
    minimum_effect: Annotated[float, Field(ge=0, lt=1)] | None = None
    margin: Margin | None = None
    budget: Margin | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Bar":
        if self.minimum_effect is None and self.margin is None:
            raise ValueError("needs a minimum_effect or a margin")
        if self.budget is not None and self.budget < (self.margin or 0):
            raise ValueError(f"budget {self.budget:g} is less than the margin {self.margin:g}")
        return self


class Reserve(Frozen):
    """A part of the items, by hash of their group, at which only promising candidates are looked.

    Attributes:
        share: of the groups; 0 keeps none back, and every question pays from the alpha budget.
        alpha: each part alone must show every condition at this level too.
    """

    share: Annotated[float, Field(ge=0, le=0.9)] = 0.33
    alpha: Level = 0.2


class GateConfig(Frozen):
    """What a candidate must show on the items that its opponent answered too.

    `alpha` is the share of wrong promotions that are to be expected among all that are decided on
    one item set (tasks/promote/spending.py); it holds for the whole gate, since all conditions must
    hold (Berger 1982). `judges` may have judged the items, but `min_benign` ordinary ones must have
    exact targets whatever it names. `refusal_markers` must have been those of the evaluations: they
    say what a refusal is, of a benign item with exact targets too. Near misses fewer than
    `min_near_miss` count among the ordinary benign items, and the decision says so. `anchor` is the
    model that `budget` counts from: `first`, the first one ever promoted, or a promoted version's
    number or fingerprint.
    """

    version: int
    name: str
    alpha: Level
    min_risky: Count
    min_benign: Count
    min_near_miss: Count
    judges: tuple[str, ...]
    refusal_markers: Annotated[tuple[str, ...], unsaid(REFUSAL_MARKERS)] = REFUSAL_MARKERS
    anchor: Annotated[str, Field(min_length=1)] = "first"
    reserve: Reserve = Reserve()
    metrics: dict[Rate, Bar]

    @model_validator(mode="before")
    @classmethod
    def _from_margins(cls, raw: Any) -> Any:
        """Version 1 had `[margins]` alone: each is a margin and a budget of the same size."""
        if not isinstance(raw, dict) or not isinstance(raw.get("margins"), dict):
            return raw
        old = {name: {"margin": m, "budget": m} for name, m in raw["margins"].items()}
        metrics = {"risky_obeyed": {"minimum_effect": 0.0}, **old}
        told = {name: {"direction": direction(name), **bar} for name, bar in metrics.items()}
        return {**{k: v for k, v in raw.items() if k != "margins"}, "metrics": told}

    @model_validator(mode="after")
    def _whole(self) -> "GateConfig":
        for name, bar in self.metrics.items():
            if bar.direction != direction(name):
                raise ValueError(f"metric {name}: {direction(name)} is better, not {bar.direction}")
        if all(bar.minimum_effect is None for bar in self.metrics.values()):
            raise ValueError("metrics: one needs a minimum_effect, or nothing had to be better")
        return self

    def at(self, alpha: float) -> "GateConfig":
        """The same gate at another alpha."""
        return GateConfig.model_validate({**self.model_dump(), "alpha": alpha})

    def for_best_of(self, tried: int) -> "GateConfig":
        """The gate for the best of some candidates that were compared on its own items.

        With a share of alpha for each of them, the chance that any one passes wrongly is at most
        alpha, however the best was chosen (Bonferroni).
        """
        return self.at(self.alpha / tried)


def direction(name: str) -> str:
    """Which way a rate is better, by its words in schemas/report.py."""
    return "lower" if "lower is better" in METRICS.get(name, "") else "higher"


def load_gate(name: str) -> GateConfig:
    """A shipped gate by name, or one's own TOML by path.

    Raises:
        ConfigError: there is no such gate, or it is malformed.
    """
    raw = read_toml(name, folder="gates", what="gate")
    try:
        return GateConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"gate {name!r}: {explain(error.errors(), GateConfig)}") from error
