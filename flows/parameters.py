"""Checks of a run's parameters that its config tree cannot make: steps, files, the base model."""

from pathlib import Path

from flows.line import STEPS
from schemas.config import PipelineConfig
from schemas.errors import ConfigError
from tasks.ingest.origin import check_sources


def checked_until(until: str | None, config: PipelineConfig) -> str | None:
    """The name of the last step to run; `evaluate` means all.

    Raises:
        ConfigError: no such step, or none in a run of this config: it would never stop.
    """
    if until is not None and until not in STEPS:
        raise ConfigError(f"until {until!r} is no step; steps: {', '.join(STEPS)}")
    if until == "world" and config.world is None:
        raise ConfigError(
            "there is no step 'world' in this run: none of its sources lies in the tiny world "
            "(world:...); begin with 'ingest', or leave out your own sources"
        )
    return None if until == "evaluate" else until


def check_inputs(config: PipelineConfig) -> None:
    """Look, without reading much, whether all that the run will need from outside is there.

    Raises:
        ConfigError: no such format, mapping or base model.
        DataError: a file or image folder does not exist.
    """
    check_sources(config.ingest)
    base = config.base
    if base.kind == "pretrained" and not Path(base.name).is_dir():
        from model.pretrained import pretrained_identity

        pretrained_identity(base.name, base.revision)
