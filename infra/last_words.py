"""What is said of a process that dies without a word, as Ray ends one whose cluster is gone."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

# Reads a line, which only a living process writes; else the pipe ends, and it says what it knows.
WATCH = ["sh", "-c", 'read -r _ || printf "%s\\n" "$0" >&2']


@contextmanager
def last_words(message: str) -> Iterator[None]:
    """Have `message` printed to stderr if this process is killed, or aborts, within the block."""
    watcher = subprocess.Popen([*WATCH, message], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        watcher.communicate(b"\n")
