"""Presets by name, path or URI, and the flow's parameters laid over them: one config tree."""

from schemas.presets.resolve import Parameters, resolve

__all__ = ["Parameters", "resolve"]
