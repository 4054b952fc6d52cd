"""The gate: by how much a candidate must be better, and by how much it may be worse."""

from typing import Annotated

from pydantic import Field, ValidationError

from schemas.config import Count
from schemas.errors import ConfigError
from schemas.explain import explain
from schemas.frozen import Frozen
from schemas.taxonomy import read_toml

Margin = Annotated[float, Field(gt=0, lt=1)]


class Margins(Frozen):
    """By how much a rate may get worse, as a share: the whole interval must stay inside."""

    benign_refused: Margin
    benign_exact: Margin
    near_miss_refused: Margin
    near_miss_exact: Margin
    risky_correctly_refused: Margin


class GateConfig(Frozen):
    """What a candidate must show on the items that its opponent answered too.

    `alpha` is the chance, for each of the conditions, that a model at its bar passes it; since all
    must hold, the chance of a wrong promotion is no higher (Berger 1982). `judges` may have judged
    the items, but `min_benign` ordinary ones must have exact targets whatever it names. Near misses
    fewer than `min_near_miss` count among the ordinary benign items, and the decision says so.
    """

    version: int
    name: str
    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    min_risky: Count
    min_benign: Count
    min_near_miss: Count
    judges: tuple[str, ...]
    margins: Margins

    def for_best_of(self, tried: int) -> "GateConfig":
        """The gate for the best of some candidates that were compared on its own items.

        With a share of alpha for each of them, the chance that any one passes wrongly is at most
        alpha, however the best was chosen (Bonferroni).
        """
        return GateConfig.model_validate({**self.model_dump(), "alpha": self.alpha / tried})


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
