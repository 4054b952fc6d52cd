"""The config tree, a module for each part of it; a preset is this tree as TOML (pipeline.py)."""

from schemas.config.bounds import MOST_RATIO, Count, Fraction, Names, Ratio, unsaid
from schemas.config.data import (
    NOTHING,
    BalanceConfig,
    Held,
    HeldOut,
    IngestConfig,
    SourceConfig,
    ValidateConfig,
    WorldConfig,
    only_risks,
)
from schemas.config.evaluation import AuditConfig, EvaluateConfig, ReportConfig
from schemas.config.method import MISFITS, BaseConfig, EncodeConfig, MethodConfig
from schemas.config.pipeline import PipelineConfig, once_each
from schemas.config.training import PARTS, PartConfig, Stage, TrainConfig

__all__ = [
    "AuditConfig",
    "BalanceConfig",
    "BaseConfig",
    "Count",
    "EncodeConfig",
    "EvaluateConfig",
    "Fraction",
    "Held",
    "HeldOut",
    "IngestConfig",
    "MISFITS",
    "MOST_RATIO",
    "MethodConfig",
    "NOTHING",
    "Names",
    "PARTS",
    "PartConfig",
    "PipelineConfig",
    "Ratio",
    "ReportConfig",
    "SourceConfig",
    "Stage",
    "TrainConfig",
    "ValidateConfig",
    "WorldConfig",
    "once_each",
    "only_risks",
    "unsaid",
]
