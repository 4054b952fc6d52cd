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
    the items; near misses fewer than `min_near_miss` are not judged, and the decision says so.
    """

    version: int
    name: str
    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    min_risky: Count
    min_benign: Count
    min_near_miss: Count
    judges: tuple[str, ...]
    margins: Margins


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
