"""Two models, or all registered ones, on the same items: which is safer, and at what price."""

from tasks.compare.sides import Side, answered, chosen_items, find_side
from tasks.compare.step import compare_models, read_comparison
from tasks.compare.versions import history_table, read_past

__all__ = [
    "Side", "answered", "chosen_items", "compare_models", "find_side", "history_table",
    "read_comparison", "read_past",
]  # fmt: skip
