"""What files of other people are known by: their content, or their size and time or ETag."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property

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


class Folder:
    """A folder of files, listed once: in memory are the names in one sub-folder, or a bucket's.

    Up to 64 MB the contents are hashed; above, size and modification time stand for them, since
    reading a million images to learn that nothing changed would cost more than the step it saves.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._tags: dict[str, str] | None = None
        self._small: list[str] = []
        self._size = 0
        check_folder(uri)
        lines = self._remote() if is_remote(uri) else self._local()
        self._stamps = _digest(lines)

    @property
    def stamped(self) -> bool:
        """Whether size and time or ETag stand for the content."""
        return self._tags is not None or self._size > HASH_UP_TO

    @cached_property
    def identity(self) -> str:
        """One digest over all files: name with sha256, with size and mtime, or with ETag."""
        if self.stamped:
            return ("stat:" if self._tags is None else "etag:") + self._stamps
        hashed = (f"{name}\t{identity(os.path.join(self.uri, name))}" for name in self._small)
        return BY_CONTENT + _digest(hashed)

    def stamp(self, name: str) -> str | None:
        """The ETag of a file below, or its size and time now.

        None for what is no regular file: what a link shows may change unnoticed.
        """
        if self._tags is not None:
            return self._tags.get(name)
        try:
            info = os.lstat(os.path.join(self.uri, name))
        except (OSError, ValueError):
            return None
        whole = stat.S_ISREG(info.st_mode)
        return f"{info.st_size}:{info.st_mtime_ns}:{info.st_ino}" if whole else None

    def _remote(self) -> list[str]:
        base = self.uri.removeprefix("s3://").rstrip("/") + "/"
        found = remote(self.uri, "find", detail=True)
        told = {key: (info.get("ETag", ""), info["size"]) for key, info in found.items()}
        self._tags = {key.removeprefix(base): f"{tag}:{size}" for key, (tag, size) in told.items()}
        return sorted(f"{key}\t{tag}\t{size}" for key, (tag, size) in told.items())

    def _local(self) -> Iterator[str]:
        for name, info in _walk(self.uri):
            self._size += info.st_size
            self._small.append(name)
            if self.stamped:
                self._small.clear()
            yield f"{name}\t{info.st_size}\t{info.st_mtime_ns}"


def _walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder, sorted by their path; links to folders are not followed."""
    waiting = [""]
    while waiting:
        name = waiting.pop()
        if name.endswith("/") or not name:
            waiting += sorted(_entries(folder, name), reverse=True)
            continue
        with suppress(OSError):  # gone, or a link to nowhere
            info = os.stat(os.path.join(folder, name))
            if stat.S_ISREG(info.st_mode):
                yield name, info


def _entries(folder: str, name: str) -> Iterator[str]:
    """What lies in a sub-folder by its path below the folder; a folder's ends with a slash."""
    with suppress(OSError), os.scandir(os.path.join(folder, name)) as entries:
        for entry in entries:
            yield f"{name}{entry.name}" + "/" * entry.is_dir(follow_symlinks=False)


def _digest(lines: Iterable[str]) -> str:
    """The sha256 of lines, with newlines between them."""
    whole = hashlib.sha256()
    for number, line in enumerate(lines):
        # A name on a disk may be no Unicode.
        whole.update(b"\n" * bool(number) + line.encode(errors="surrogateescape"))
    return whole.hexdigest()
