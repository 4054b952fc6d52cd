"""What probes of a trained stage 1 ask, and what a row of their table says."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from schemas.config import Count
from schemas.frozen import Frozen
from schemas.report import Metric

# The methods whose stage 1 is probed: the first one's projector and head, every one's tokens.
PROBED = ("psa-vlm", "psavlm-plus")
PROJECTOR, TOKENS, HEAD = "projector", "tokens", "head"
TYPE, LEVEL, SPREAD = "type, linear probe", "level, linear probe", "variance between types"
FLAGGED, TYPE_NAMED, LEVEL_NAMED = "flagged by the guard", "type, head", "level, head"


class ProbeConfig(Frozen):
    """How much is looked at, and how.

    `rows` of the training split at most, and of the test split, by hash of `seed`.
    `penalty`: L2 of the probes' weights on standardised states, as a share of the mean loss.
    """

    taxonomy: str = "taxonomy"
    rows: Count = 3000
    batch: Count = 128
    penalty: Annotated[float, Field(ge=0)] = 1e-3
    bootstrap: Count = 1000
    seed: int = 0


class ProbeRow(Frozen):
    """One number: of which experiment, read from what, and what it is."""

    experiment: str
    what: str
    measure: str
    metric: Metric


def of_experiment(rows: Sequence[ProbeRow], name: str) -> list[ProbeRow]:
    """The rows of one experiment, in their order."""
    return [row for row in rows if row.experiment == name]
