"""Labelled -> the training order: which rows, and in which sequence, so that a ratio holds."""

from tasks.balance.draw import Order, draw
from tasks.balance.order import hash_keys, plan_order
from tasks.balance.pool import Pool, check_caps
from tasks.balance.shares import Stratum, apportion, capped, largest_total, sides
from tasks.balance.step import VERSION, balance, build_balanced, read_ratios
from tasks.balance.totals import common_total

__all__ = [
    "VERSION", "Order", "Pool", "Stratum", "apportion", "balance", "build_balanced", "capped",
    "check_caps", "common_total", "draw", "hash_keys", "largest_total", "plan_order",
    "read_ratios", "sides",
]  # fmt: skip
