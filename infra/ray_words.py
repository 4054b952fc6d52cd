"""Ray's own words go to stderr: standard output is for what a command was asked for.

Ray's thread that listens for errors prints them on standard output, such as of a worker that was
killed and is made anew; no setting of Ray's changes that.
"""

import sys
import threading
from typing import Any

RAYS = "ray_"  # how the names of Ray's threads begin


class Apart:
    """A standard output that lets Ray's threads write to stderr, and all others to itself."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def _stream(self) -> Any:
        return sys.stderr if threading.current_thread().name.startswith(RAYS) else self._own


def set_apart() -> None:
    """From now on this process's Ray writes to stderr; once is enough."""
    if not isinstance(sys.stdout, Apart):
        sys.stdout = Apart(sys.stdout)
