"""A step of the line as a Prefect task: its name, its retries, its state, its progress."""

import inspect
from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from schemas.artifact import Artifact
from schemas.errors import PsavlmError

# Every step leaves its artifact or nothing, so that it may be tried again.
RETRIES = 1
RETRY_DELAY_S = 5


def as_task(name: str, step: Callable[..., Artifact], *args: Any, **kwargs: Any) -> Artifact:
    """Run one step as a Prefect task; a reused artifact shows as state `Cached`."""

    # The store is the cache: Prefect keeps neither results nor cache keys.
    @task(
        name=name,
        task_run_name=name,
        retries=RETRIES,
        retry_delay_seconds=RETRY_DELAY_S,
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
