"""Can the root be used at all? Asked once, before any work, with an answer within seconds."""

import contextlib
import os
import uuid
from pathlib import Path

from infra.files import Files

# Few tries and short waits: a wrong endpoint must not cost minutes, a hiccup not the run.
_IMPATIENT = {
    "connect_timeout": 3,
    "read_timeout": 5,
    "retries": {"mode": "legacy", "total_max_attempts": 3},
}


def probe(root: str) -> bool:
    """Write a small file twice and remove it; nothing stays behind, not even a new root.

    Returns:
        Whether the second writer lost, as the store needs it.

    Raises:
        StorageError: the root cannot be written.
    """
    if root.startswith("s3://"):
        files = Files.at(root, config_kwargs=_IMPATIENT, skip_instance_cache=True)
        files.fs.retries = 2
        return _write_twice(files)
    folders = (Path(root), *Path(root).parents)
    made = [folder for folder in folders if not os.path.lexists(folder)]
    try:
        return _write_twice(Files.at(root))
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def careful(root: str) -> str:
    """What to do about a root without a conditional put."""
    return (
        f"{root} ignores If-None-Match: two runs that build the same artifact at the same time may "
        "overwrite each other's manifest, and two decisions of the gate each other; run one "
        "pipeline at a time on it, or use a store that honours conditional writes"
    )


def _write_twice(files: Files) -> bool:
    name = f".probe-{uuid.uuid4().hex}"
    files.put(name, b"first", fresh=True)
    try:
        return not files.put(name, b"second", fresh=True)
    finally:
        files.remove(name)
