"""The model registry: MLflow's, by its client alone; no server is needed."""

from infra.registry.client import Registry
from infra.registry.resolve import resolve_model
from infra.registry.runs import Run

__all__ = ["Registry", "Run", "resolve_model"]
