"""A ratio sweep: its table, its Pareto points, its plot, and the papers' own sweep beside it."""

from tasks.sweep.step import sweep_table

__all__ = ["sweep_table"]
