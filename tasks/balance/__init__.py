"""Labelled -> the training order: which rows, and in which sequence, so that a ratio holds."""

from tasks.balance.order import hash_keys, plan_order
from tasks.balance.shares import apportion, largest_total, sides
from tasks.balance.step import VERSION, balance, build_balanced
from tasks.balance.totals import common_total

__all__ = [
    "VERSION", "apportion", "balance", "build_balanced", "common_total", "hash_keys",
    "largest_total", "plan_order", "sides",
]  # fmt: skip
