"""Config of what is measured and told: evaluation, report, audit."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.config.bounds import Count, unsaid
from schemas.frozen import Frozen
from schemas.policy import REFUSAL_MARKERS
from schemas.report import WILSON, RateInterval


class EvaluateConfig(Frozen):
    """Held-out items -> answers, rates and intervals for one arm.

    `policy`: which types pass, and what follows from a level (schemas/policies); empty is the
    model's own. `interval`: of rates, Wilson's or the exact one, which is wider. `precision`: the
    type of the base's weights. `workers`: processes that answer, as Ray actors where there are
    several; it changes no answer, and is no part of a fingerprint.
    """

    taxonomy: str = "taxonomy"
    policy: str = ""
    precision: Annotated[Literal["fp32", "bf16"], unsaid("fp32")] = "fp32"
    batch: Count = 64
    max_new_tokens: Count = 128
    refusal_markers: tuple[str, ...] = REFUSAL_MARKERS
    bootstrap: Count = 2000
    interval: RateInterval = WILSON
    seed: int = 0
    workers: Annotated[Count, Field(exclude=True)] = 1


class ReportConfig(Frozen):
    """The report: how many images it shows, and whether they are blurred and risky words hidden.

    `blur` left out: all is blurred but the tiny world's glyphs and shapes, where they are alone.
    """

    blur: bool | None = None
    images: Count = 6
    worst: Count = 12


class AuditConfig(Frozen):
    """A trained head against the labels: which rows it looks at, what it disputes, what is shown.

    `margin`: log-odds, in nats, of the type seen against the type stated, from which a row counts
    as disputed; 2.3 is ten to one. `images` on the contact sheet, blurred as the report's.
    """

    taxonomy: str = "taxonomy"
    splits: Annotated[tuple[Literal["train", "calibration", "test"], ...], Field(min_length=1)] = (
        "train",
        "calibration",
        "test",
    )
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.3
    images: Count = 48
    batch: Count = 256
    blur: bool | None = None
