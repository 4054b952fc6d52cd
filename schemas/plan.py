"""What `psavlm plan` tells: the steps of a run before anything starts."""

from schemas.features import CacheDecision
from schemas.frozen import Frozen


class PlannedPart(Frozen):
    """One optimised part of a stage: steps of `global_batch` items, `samples` seen in all."""

    part: str
    steps: int
    global_batch: int
    samples: int


class PlannedStep(Frozen):
    """One step of a run.

    `reused`: nothing will be done. `rows` are those that it handles, or at most so many, None if
    that is not known yet. `seconds` and `bytes` are of this step if it runs, scaled from the
    artifact `measured`; None where nothing comparable has run in this root. `cache` is encode's:
    whether features are kept, None if that is not known yet. `problem` says what will stop it.
    """

    name: str
    step: str
    uri: str
    reused: bool
    rows: int | None = None
    rows_at_most: bool = False
    clean_per_unsafe: float | None = None
    training: tuple[PlannedPart, ...] = ()
    seconds: float | None = None
    bytes: int | None = None
    measured: str = ""
    cache: CacheDecision | None = None
    problem: str = ""


class PlannedTotals(Frozen):
    """Sums over the steps that would run, up to the one that stops the run, if one does.

    `seconds` and `bytes` are sums of what is known, None if nothing is; `not_known` names the
    steps that they leave out.
    """

    run: int
    reused: int
    training_steps: int
    samples: int
    seconds: float | None
    bytes: int | None
    not_known: tuple[str, ...]


class Plan(Frozen):
    """A whole run.

    `gate` decides on the model at the end, always anew; empty if none is asked. `refused` says why
    it will refuse, whatever the numbers are; empty if nothing is known to. `problem` says
    which step will stop the run, and why; empty if none is known to. `free_bytes` is the room on
    the root's disk, None for a bucket.
    """

    preset: str
    root: str
    steps: tuple[PlannedStep, ...]
    totals: PlannedTotals
    gate: str
    refused: tuple[str, ...]
    problem: str
    free_bytes: int | None
