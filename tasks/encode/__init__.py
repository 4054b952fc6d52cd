"""Every image through the frozen encoder once, and the features read back."""

from tasks.encode.shards import ENCODER, FEATURES, SHARD_VERSION, SHARDS, FeatureCache
from tasks.encode.step import VERSION, encode

__all__ = [
    "ENCODER", "FEATURES", "SHARDS", "SHARD_VERSION", "VERSION", "FeatureCache", "encode",
]  # fmt: skip
