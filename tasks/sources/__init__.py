"""On-disk formats: one file each, yielding RawRecord; nothing here knows storage or training."""

from tasks.sources.parse import parse_source
from tasks.sources.registry import READERS, Reader, reader_of

__all__ = ["READERS", "Reader", "parse_source", "reader_of"]
