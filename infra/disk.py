"""Small files and finished folders on this machine's disk: there whole or not at all, and flushed.

A power cut, other than a death, takes along what has not been brought to the disk.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# Another process may prune a folder that is empty for a moment.
TRIES = 5
# What a file system without locks says, such as Lustre as it is often mounted.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def put(place: Path, data: bytes, *, fresh: bool) -> bool:
    """Write beside, flush to the disk, link (create) or rename (replace) into place, flush that."""
    draft = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    for _ in range(TRIES):
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process pruned the empty folder
            file = draft.open("xb")
            break
    else:
        raise FileNotFoundError(2, "the folder keeps vanishing", str(place.parent))
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            os.link(draft, place)
        else:
            draft.replace(place)
        _settle(place.parent)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _settle(place: Path) -> None:
    """Bring a file or a folder's names to the disk: no power cut must take back what was told."""
    entries = os.open(place, os.O_RDONLY)
    try:
        os.fsync(entries)
    finally:
        os.close(entries)


def flush_tree(folder: Path) -> None:
    """Bring a new folder with all below it to the disk, and the four names that lead to it."""
    for path in [*folder.rglob("*"), folder, *list(folder.parents)[:4]]:
        _settle(path)


def clear(folder: Path) -> None:
    """Remove a folder of this machine outside any root; a missing one is fine."""
    shutil.rmtree(folder, ignore_errors=True)


def lock(file: IO[str], *, wait: bool = True) -> bool:
    """Lock a file that is open to be written, until it is closed; whether nobody else holds it.

    A file system without locks has none that are held.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let no other process of this machine do the same by that file, which is made if missing."""
    with path.open("w") as file:
        lock(file)
        yield


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not exist yet."""
    there = next(p for p in (folder, *folder.parents) if p.exists())
    return shutil.disk_usage(there).free
