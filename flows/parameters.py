"""A flow's parameters: their types, which refuse what no run can have, and what types cannot say.

Prefect makes a JSON schema of the types, so that a wrong value is refused at submission.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from flows.line import STEPS, end_of_evaluation
from infra.cluster_address import PATTERN
from infra.fetch import fetched
from schemas.config import MOST_RATIO, PipelineConfig, SourceConfig, Stage
from schemas.errors import ConfigError
from schemas.presets import Parameters, resolve
from schemas.shipped import shipped
from tasks.balance import check_caps
from tasks.examine import check_benchmark
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


def checked_cluster(cluster: str) -> None:
    """ConfigError for an address that the flows would refuse."""
    try:
        TypeAdapter(Cluster).validate_python(cluster)
    except ValidationError as error:
        raise ConfigError(
            f"cluster {cluster!r} is no address of a Ray cluster: give one such as "
            "127.0.0.1:6379, or leave it out for that of psavlm up, or one of the run's own"
        ) from error


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
    return end_of_evaluation(config) if until == "evaluate" else until


def check_inputs(config: PipelineConfig) -> None:
    """Look, without reading much, whether all that the run will need from outside is there.

    Raises:
        ConfigError: no such format, mapping, base model or benchmark, or a cap of a source that is
            none.
        DataError: a file or image folder does not exist, or a benchmark's folder is not its own.
    """
    check_sources(config.ingest)
    for order in (config.balance, config.stage2_balance):
        check_caps(order.source_caps, named(config.ingest))
    for benchmark in config.benchmarks:
        check_benchmark(benchmark)
    base = config.base
    if base.kind == "pretrained" and not Path(base.name).is_dir():
        from model.pretrained import pretrained_identity

        pretrained_identity(base.name, base.revision)
