"""An ablation: methods beside each other on the same items, in one table and one plot."""

from tasks.ablation.step import ablation_table

__all__ = ["ablation_table"]
