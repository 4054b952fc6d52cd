"""A flow's parameters: their types, which refuse what no run can have, and what types cannot say.

Prefect makes a JSON schema of the types, so that a wrong value is refused at submission.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from flows.line import STEPS
from infra.cluster_address import PATTERN
from infra.fetch import fetched
from schemas.config import PipelineConfig, SourceConfig, Stage
from schemas.errors import ConfigError
from schemas.presets import Parameters, resolve
from schemas.sweep import MOST_RATIO
from schemas.taxonomy import shipped
from tasks.balance import check_caps
from tasks.ingest.origin import check_sources, named


def _named(folder: str, *, empty: bool = False) -> Any:
    """A field for a shipped name, or a path or URI that ends in .toml."""
    names = "|".join([*shipped(folder), r".+\.toml", *([""] if empty else [])])
    return Field(pattern=rf"^({names})$")


Preset = Annotated[str, _named("presets")]
Method = Annotated[str, _named("methods", empty=True)]
Root = Annotated[str, Field(min_length=1)]
Sources = tuple[SourceConfig, ...]
Ratio = Annotated[float, Field(ge=0, le=MOST_RATIO)]
Cluster = Annotated[str, Field(pattern=PATTERN)]
Seed = Annotated[int, Field(ge=0)]
Step = Annotated[str, Field(pattern=f"^({'|'.join(STEPS)})$")]


def configured(asked: Mapping[str, Any]) -> PipelineConfig:
    """The config of a run from its parameters; presets and methods may lie in a bucket.

    Raises:
        ConfigError: a value that no run can have; unknown preset or method.
    """
    files = {name: fetched(str(asked.get(name, "")), what=name) for name in ("preset", "method")}
    given = {name: value for name, value in files.items() if value}
    return resolve(Parameters.checked({**asked, **given}))


def checked_until(until: str | None, config: PipelineConfig) -> str | None:
    """The name of the last step to run; None means all.

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
    stages = [stage.value for stage in config.stages]
    if until in [*Stage] and until not in stages or until == "promote" and not stages:
        raise ConfigError(
            f"there is no step {until!r} in this run: its method trains "
            f"{' and '.join(stages) or 'nothing'}; choose another method, or another step"
        )
    # The arms are evaluated one after another: the last one ends the step.
    return f"evaluate/{config.last_arm}" if until == "evaluate" else until


def check_inputs(config: PipelineConfig) -> None:
    """Look, without reading much, whether all that the run will need from outside is there.

    Raises:
        ConfigError: no such format, mapping or base model, or a cap of a source that is none.
        DataError: a file or image folder does not exist.
    """
    check_sources(config.ingest)
    for order in (config.balance, config.stage2_balance):
        check_caps(order.source_caps, named(config.ingest))
    base = config.base
    if base.kind == "pretrained" and not Path(base.name).is_dir():
        from model.pretrained import pretrained_identity

        pretrained_identity(base.name, base.revision)
