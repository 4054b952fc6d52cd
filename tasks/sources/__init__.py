"""On-disk formats: one file each, yielding RawRecord; nothing here knows storage or training."""

from tasks.sources.parse import parse_source
from tasks.sources.registry import READERS, Reader, check_use, formats, reader_named, reader_of

__all__ = [
    "READERS",
    "Reader",
    "check_use",
    "formats",
    "parse_source",
    "reader_named",
    "reader_of",
]
