"""Labelled -> the training order: which rows, and in which sequence, so that a ratio holds."""

from tasks.balance.order import hash_keys, plan_order
from tasks.balance.shares import apportion
from tasks.balance.step import VERSION, balance, build_balanced

__all__ = ["VERSION", "apportion", "balance", "build_balanced", "hash_keys", "plan_order"]
