"""What a benchmark run is asked, and what it reports."""

from typing import Annotated

from pydantic import Field

from schemas.frozen import Frozen
from schemas.report import WILSON, Interval, Metric, RateInterval, interval_among

Count = Annotated[int, Field(ge=1)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BenchmarkConfig(Frozen):
    """A benchmark run; in a preset a table of `[[benchmarks]]`.

    `data`: the folder of the user's own copy. `judge`, `second_judge`: empty for the benchmark's
    own, `phrases:NAME`, or an endpoint. `limit`: at most so many groups of items, chosen by hash.
    `prices`: of a million tokens to and from the judge, for the cost; in any currency. `interval`:
    of rates.
    """

    name: str
    data: str
    rule: str = ""
    judge: str = ""
    second_judge: str = ""
    rubric: str = ""
    limit: Count | None = None
    batch: Count = 16
    max_new_tokens: Count | None = None
    prices: tuple[Price, Price] | None = None
    bootstrap: Count = 2000
    interval: RateInterval = WILSON
    seed: int = 0


class Usage(Frozen):
    """Tokens to and from an endpoint, over all items, also those that the cache had."""

    tokens_in: int
    tokens_out: int
    cost: float | None = None


class Agreement(Frozen):
    """How far a second judge agrees, over the `n` items that both have judged."""

    judge: str
    n: int
    same: float | None = None
    kappa: float | None = None
    mean_distance: float | None = None
    within_one: float | None = None


class BenchmarkReport(Frozen):
    """`report.json` of a benchmark run.

    `official`: the authors' numbers by their names, in their unit. `measures`: rates and means with
    n and interval; `slices`: the same by group. `rejected`: items that could not be asked,
    by reason; `filtered`: those whose answer the endpoint's own filter withheld, which counts as
    refused; `unanswered`: those that an endpoint declined otherwise; `unscored`: those that the
    judge could not place. `caveats`: what keeps a number from being compared with published ones.
    """

    format: int = 1
    benchmark: str
    rule: str
    judge: str
    model: str
    items: int
    rejected: dict[str, int]
    filtered: int = 0
    unanswered: int
    unscored: int
    official: dict[str, float]
    measures: dict[str, Metric]
    slices: dict[str, dict[str, Metric]]
    caveats: tuple[str, ...]
    answering: Usage
    judging: Usage
    agreement: Agreement | None = None

    @property
    def interval(self) -> Interval:
        """How its rates' intervals were made."""
        return interval_among(self.measures)
