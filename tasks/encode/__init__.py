"""Every image through the frozen encoder once, and the features read back."""

from tasks.encode.cache import FeatureCache
from tasks.encode.shards import ENCODER, FEATURES, SHARD_VERSION, SHARDS
from tasks.encode.step import VERSION, decision, encode

__all__ = [
    "ENCODER", "FEATURES", "SHARDS", "SHARD_VERSION", "VERSION", "FeatureCache", "decision",
    "encode",
]  # fmt: skip
