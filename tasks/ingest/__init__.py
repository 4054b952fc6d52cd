"""Sources -> samples: every item read, its image decoded, its label mapped, its split set."""

from tasks.ingest.step import VERSION, build_samples, ingest

__all__ = ["VERSION", "build_samples", "ingest"]
