"""What files of other people are known by: their content, or their size and time or ETag."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from infra.places import check_folder, is_remote, open_file, remote

HASH_UP_TO = 64_000_000
BY_CONTENT = "sha256:"


def identity(uri: str) -> str:
    """A file's identity by content: sha256, or ETag and size in a bucket."""
    if is_remote(uri):
        info = remote(uri, "info")
        return f"etag:{info.get('ETag', '')}:{info['size']}"
    with open_file(uri) as file:
        return BY_CONTENT + hashlib.file_digest(file, "sha256").hexdigest()


def folder_identity(uri: str) -> str:
    """One digest over all files below a folder: name with sha256, or with size and mtime.

    Up to 64 MB the contents are hashed; above, size and modification time stand for them, since
    reading a million images to learn that nothing changed would cost more than the step it saves.
    """
    if is_remote(uri):
        listing = remote(uri, "find", detail=True)
        lines = sorted(f"{k}\t{v.get('ETag', '')}\t{v['size']}" for k, v in listing.items())
        return "etag:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()
    check_folder(uri)
    files = sorted(_walk(uri))
    small = _is_small(files)
    lines = [
        f"{name}\t{identity(os.path.join(uri, name))}"
        if small
        else f"{name}\t{info.st_size}\t{info.st_mtime_ns}"
        for name, info in files
    ]
    kind = BY_CONTENT if small else "stat:"
    return kind + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def is_stamped(uri: str) -> bool:
    """Whether `folder_identity` tells a folder by size and time or ETag, not by its content."""
    return is_remote(uri) or not _is_small(_walk(uri))


def _is_small(files: Iterable[tuple[str, os.stat_result]]) -> bool:
    return sum(info.st_size for _, info in files) <= HASH_UP_TO


def _walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    for path, _, names in os.walk(folder):
        for name in names:
            full = os.path.join(path, name)
            if os.path.isfile(full):
                yield Path(full).relative_to(folder).as_posix(), os.stat(full)


def stamper(folder: str) -> Callable[[str], str | None]:
    """A function from the name of a file below a folder to its ETag, or its size and time.

    None for what is no regular file: what a link shows may change unnoticed.
    """
    if is_remote(folder):
        base = folder.removeprefix("s3://").rstrip("/") + "/"
        found = remote(folder, "find", detail=True)
        known = {
            key.removeprefix(base): f"{info.get('ETag', '')}:{info['size']}"
            for key, info in found.items()
        }
        return known.get

    def stamp(name: str) -> str | None:
        try:
            info = os.lstat(os.path.join(folder, name))
        except (OSError, ValueError):
            return None
        whole = stat.S_ISREG(info.st_mode)
        return f"{info.st_size}:{info.st_mtime_ns}:{info.st_ino}" if whole else None

    return stamp
