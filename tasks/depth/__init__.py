"""Safety in depth: calibration, misses against false positives, errors by type, slices."""

from tasks.depth.section import depth

__all__ = ["depth"]
