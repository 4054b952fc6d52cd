"""The flow `psavlm`: the whole pipeline under Prefect's eyes."""

import inspect
from collections.abc import Callable
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.line import pipeline, up_to
from flows.parameters import checked_until
from flows.told import told
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import SourceConfig
from schemas.errors import PsavlmError
from schemas.presets import Parameters, resolve

RETRIES = 1


@flow(name="psavlm", persist_result=False)
def full_pipeline(  # noqa: PLR0913 - a run's parameters are top-level scalars
    preset: str = "tiny",
    root: str = ".psavlm/store",
    sources: tuple[SourceConfig, ...] = (),
    base: str = "",
    clean_per_unsafe: float | None = None,
    stage2_clean_per_unsafe: float | None = None,
    seed: int | None = None,
    cluster: str = "",
    until: str | None = None,
) -> dict[str, Artifact]:
    """Raw data to an evaluated, safety-aligned model; returns the artifact of every step."""
    asked = {
        "preset": preset,
        "sources": sources,
        "base": base,
        "clean_per_unsafe": clean_per_unsafe,
        "stage2_clean_per_unsafe": stage2_clean_per_unsafe,
        "seed": seed,
    }
    config = resolve(Parameters.checked(asked))
    store = Store(root)
    store.check()
    steps = pipeline(config, store=store, do=told(as_task), cluster=cluster)
    return up_to(steps, checked_until(until, config))


def as_task(name: str, step: Callable[..., Artifact], *args: Any, **kwargs: Any) -> Artifact:
    """Run one step as a Prefect task; a reused artifact shows as state `Cached`."""

    # The store is the cache: Prefect keeps neither results nor cache keys.
    @task(
        name=name,
        retries=RETRIES,
        retry_condition_fn=_worth_retrying,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def call() -> Any:
        artifact = step(*args, **kwargs)
        return Completed(name="Cached", data=artifact) if artifact.reused else artifact

    outcome: Any = call()
    artifact: Artifact = outcome.result() if isinstance(outcome, State) else outcome
    return artifact


async def _worth_retrying(_task: Any, _run: Any, state: State) -> bool:
    """Bad input stays bad; anything else may have been the weather."""
    error: Any = state.result(raise_on_failure=False)
    if inspect.isawaitable(error):
        error = await error
    return not (isinstance(error, PsavlmError) and error.exit_code == 2)
