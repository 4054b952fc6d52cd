"""A step of the line as a Prefect task: its name, its retries, its state, its progress."""

import inspect
from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.told import in_words
from schemas.artifact import Artifact
from schemas.decision import Decision
from schemas.errors import OutageError, PsavlmError, StoppedError

# Every step leaves its artifact or nothing, so that it may be tried again.
RETRIES = 1
RETRY_DELAY_S = 5


def as_task(name: str, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run one step as a Prefect task; a reused artifact shows as state `Cached`.

    What the gate decided is its task's state: `Promoted`, `Refused`, `Already champion`.
    """

    # The store is the cache: Prefect keeps neither results nor cache keys.
    @task(
        name=name,
        task_run_name=name,
        retries=RETRIES,
        retry_delay_seconds=RETRY_DELAY_S,
        retry_condition_fn=worth_retrying,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def call() -> Any:
        result = step(*args, **kwargs)
        if isinstance(result, Artifact) and result.reused:
            return Completed(name="Cached", data=result)
        if isinstance(result, Decision):
            name = result.action.replace("_", " ").capitalize()
            return Completed(name=name, message=in_words(result), data=result)
        return result

    outcome: Any = call()
    return outcome.result() if isinstance(outcome, State) else outcome


async def worth_retrying(_task: Any, _run: Any, state: State) -> bool:
    """Bad input stays bad; anything else may have been the weather."""
    error: Any = state.result(raise_on_failure=False)
    if inspect.isawaitable(error):
        error = await error
    if isinstance(error, StoppedError):
        return False
    if isinstance(error, OutageError):
        return True
    return not (isinstance(error, PsavlmError) and error.exit_code == 2)
