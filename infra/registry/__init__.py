"""The model registry: MLflow's, by its client alone; no server is needed."""

from infra.registry.client import MODEL, Registry
from infra.registry.connect import page_address
from infra.registry.live import Live
from infra.registry.resolve import resolve_model
from infra.registry.runs import Run

__all__ = ["MODEL", "Live", "Registry", "Run", "page_address", "resolve_model"]
