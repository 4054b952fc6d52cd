"""The flow `psavlm`, deployed as `psavlm/full-pipeline`: the whole line under Prefect's eyes."""

from prefect import flow

from flows.line import pipeline, up_to
from flows.parameters import (
    Method,
    Preset,
    Ratio,
    Root,
    Seed,
    Sources,
    Step,
    checked_until,
    configured,
)
from flows.steps import as_task
from flows.told import told
from infra.store import Store
from schemas.artifact import Artifact

DAY_S = 24 * 3600


@flow(name="psavlm", persist_result=False, timeout_seconds=DAY_S)
def full_pipeline(  # noqa: PLR0913 - a run's parameters are top-level scalars
    preset: Preset = "tiny",
    root: Root = ".psavlm/store",
    sources: Sources = (),
    base: str = "",
    method: Method = "",
    clean_per_unsafe: Ratio | None = None,
    stage2_clean_per_unsafe: Ratio | None = None,
    seed: Seed | None = None,
    cluster: str = "",
    until: Step | None = None,
    promote: bool = True,
) -> dict[str, Artifact]:
    """Raw data to an evaluated, safety-aligned model; returns the artifact of every step."""
    asked = {
        "preset": preset,
        "sources": sources,
        "base": base,
        "method": method,
        "clean_per_unsafe": clean_per_unsafe,
        "stage2_clean_per_unsafe": stage2_clean_per_unsafe,
        "seed": seed,
    }
    config = configured(asked)
    store = Store(root)
    store.check()
    steps = pipeline(config, store=store, do=told(as_task), cluster=cluster)
    return up_to(steps, checked_until(until, config))
