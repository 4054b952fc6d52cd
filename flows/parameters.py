"""Checks of flow parameters that are no part of the config tree."""

from flows.line import STEPS
from schemas.errors import ConfigError


def checked_until(until: str | None) -> str | None:
    """The name of the last step to run; `evaluate` means all.

    Raises:
        ConfigError: no such step.
    """
    if until is not None and until not in STEPS:
        raise ConfigError(f"until {until!r} is no step; steps are {list(STEPS)}")
    return None if until == "evaluate" else until
