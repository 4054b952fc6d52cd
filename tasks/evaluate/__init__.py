"""Evaluation: answers on held-out items, judged, counted, with intervals."""

from tasks.evaluate.step import evaluate

__all__ = ["evaluate"]
