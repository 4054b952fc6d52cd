"""What the listing of a root tells of a file."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Found:
    """Bytes, and the last change in seconds since 1970."""

    bytes: int
    changed: float

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Found":
        """From fsspec's words; a folder has 0 bytes."""
        # An object without a time is a bucket's own placeholder: as young as can be.
        stamp = info.get("LastModified")
        changed = stamp.timestamp() if stamp else info.get("mtime", time.time())
        return cls(0 if info["type"] == "directory" else int(info["size"]), changed)
