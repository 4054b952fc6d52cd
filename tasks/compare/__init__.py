"""Two models, or all registered ones, on the same items: which is safer, and at what price."""

from tasks.compare.sides import answered, chosen_items
from tasks.compare.step import compare_models, read_comparison
from tasks.compare.versions import history_table, read_past

__all__ = [
    "answered", "chosen_items", "compare_models", "history_table", "read_comparison", "read_past",
]  # fmt: skip
