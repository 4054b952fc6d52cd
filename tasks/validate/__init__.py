"""Samples -> labelled: bad rows into quarantine with a reason, and a verdict people can read."""

from tasks.validate.step import VERSION, build_labelled, validate

__all__ = ["VERSION", "build_labelled", "validate"]
