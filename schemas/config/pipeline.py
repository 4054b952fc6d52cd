"""The one frozen config tree. A preset is this tree as TOML; flow parameters override its tops."""

from typing import Annotated

from pydantic import AfterValidator

from schemas.attack import AttackConfig
from schemas.benchmark import BenchmarkConfig
from schemas.config.data import BalanceConfig, IngestConfig, ValidateConfig, WorldConfig
from schemas.config.evaluation import AuditConfig, EvaluateConfig, ReportConfig
from schemas.config.method import BaseConfig, EncodeConfig, MethodConfig
from schemas.config.training import Stage, TrainConfig
from schemas.frozen import Frozen


def once_each(benchmarks: tuple[BenchmarkConfig, ...]) -> tuple[BenchmarkConfig, ...]:
    """The benchmarks; ValueError for a name that is there twice."""
    names = [one.name for one in benchmarks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"benchmark {twice[0]!r} is there twice: leave one, and ask the other with "
            "psavlm benchmark"
        )
    return benchmarks


class PipelineConfig(Frozen):
    """A whole run, from sources to the evaluation, and its audit; what a preset file holds.

    With `attack` the last stage is attacked before the report, which then shows it; `benchmarks`
    are asked of the base and of the last stage, and are a block each in it.
    """

    preset: str
    world: WorldConfig | None = None
    ingest: IngestConfig = IngestConfig()
    validation: ValidateConfig = ValidateConfig()
    balance: BalanceConfig = BalanceConfig()
    stage2_balance: BalanceConfig = BalanceConfig(with_answers_only=True)
    base: BaseConfig = BaseConfig()
    encode: EncodeConfig = EncodeConfig()
    stage1: TrainConfig
    stage2: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    benchmarks: Annotated[tuple[BenchmarkConfig, ...], AfterValidator(once_each)] = ()
    report: ReportConfig = ReportConfig()
    audit: AuditConfig = AuditConfig()
    attack: AttackConfig | None = None
    gate: str = "default"

    @property
    def method(self) -> MethodConfig:
        """The method of the run."""
        return self.stage1.method

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that have something to train, in order."""
        return tuple(config.stage for config in (self.stage1, self.stage2) if config.parts)

    @property
    def last_arm(self) -> str:
        """The arm that the run ends with: its last stage, the oracle, or the base by itself."""
        untrained = "oracle" if self.method.concepts == "labels" else "base"
        return self.stages[-1].value if self.stages else untrained
