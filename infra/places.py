"""Files that people name: local paths and s3:// URIs, found, opened and identified alike.

The store keeps what psavlm makes; this file reads what others made.
"""

import glob
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from infra.address import refuse_credentials
from infra.faults import reason, troubles, without_secrets
from schemas.errors import ConfigError, DataError, StorageError

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_SHARDS = 100_000


@dataclass(frozen=True)
class Found:
    """One file: where it lies, and its name inside what was asked for (no machine's path in it)."""

    uri: str
    name: str


def is_remote(uri: str) -> bool:
    """Whether a URI needs a file system of its own; ConfigError for any but s3."""
    scheme, mark, _ = uri.partition("://")
    if mark and scheme != "s3":
        named = without_secrets(uri)
        raise ConfigError(f"{named!r}: only local paths and s3:// are read, not {scheme}://")
    refuse_credentials(uri)
    return bool(mark)


def expand(uri: str) -> list[Found]:
    """A file, a glob or brace ranges (`{00000..00009}`) -> the files, sorted by name.

    Raises:
        DataError: a file that is named, or anything at all behind a pattern, does not exist.
    """
    plain = exists(uri)
    shards = [uri] if plain else _braces(uri)
    fixed = re.split(r"[*?\[{]", uri)[0] if not plain else uri
    prefix = fixed.rpartition("/")[0]
    found = []
    for shard in shards:
        matches = [shard] if plain or not re.search(r"[*?\[]", shard) else _glob(shard)
        missing = [m for m in matches if not exists(m)]
        if missing or not matches:
            raise DataError(
                f"the source file {missing[0] if missing else shard!r} does not exist; correct uri="
            )
        found += matches
    names = ((f, f[len(prefix) :].lstrip("/") if prefix else f) for f in sorted(set(found)))
    # A file's name may hold bytes that are no Unicode; keys and messages need text.
    return [Found(uri, name.encode(errors="replace").decode()) for uri, name in names]


def _braces(uri: str) -> list[str]:
    match = BRACES.search(uri)
    if not match:
        return [uri]
    first, last = match.groups()
    count = int(last) - int(first) + 1
    if not 0 < count <= MAX_SHARDS:
        raise ConfigError(f"{uri!r}: the range {match.group()} holds {count} files")
    heads = (f"{uri[: match.start()]}{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))
    return [head + tail for head in heads for tail in _braces(uri[match.end() :])]


def _glob(pattern: str) -> list[str]:
    if not is_remote(pattern):
        return glob.glob(pattern, recursive=True)
    return ["s3://" + key for key in remote(pattern, "glob")]


def exists(uri: str) -> bool:
    """Whether a file or folder lies there."""
    return bool(remote(uri, "exists")) if is_remote(uri) else os.path.exists(uri)


def open_file(uri: str) -> BinaryIO:
    """The file's bytes, seekable.

    Raises:
        DataError: it is missing, a folder, pipe or device, or may not be read.
    """
    try:
        if is_remote(uri):
            return io.BufferedReader(_Read(uri, remote(uri, "open")))
        mode = os.stat(uri).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            # A named pipe would block the reader for ever, a device might never end.
            raise DataError(f"{uri!r} cannot be read: it is no regular file; correct uri=")
        return open(uri, "rb")
    except OSError as error:
        raise DataError(f"{uri!r} cannot be read: {error.strerror or error}") from error


def read_below(folder: str, name: str, *, limit: int) -> bytes:
    """At most `limit` + 1 bytes of the file `name` below a folder; one byte more means "longer".

    Raises:
        PermissionError: the name leads out of the folder (absolute, `..`, a link to elsewhere).
        FileNotFoundError: there is no such regular file.
    """
    parts = re.split(r"[/\\]", name)
    if ".." in parts or parts[0] == "" or "://" in name or "\0" in name:
        raise PermissionError(name)
    if is_remote(folder):
        return remote(f"{folder.rstrip('/')}/{name}", "cat_file", end=limit + 1)
    path = os.path.join(folder, name)
    if _has_link(folder, name):
        base, path = os.path.realpath(folder), os.path.realpath(path)
        if os.path.commonpath([base, path]) != base:
            raise PermissionError(name)
    # A named pipe or device would block the reader for ever.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FileNotFoundError(name)
    with open(path, "rb") as file:
        return file.read(limit + 1)


def _has_link(folder: str, name: str) -> bool:
    """Whether a part of the name is a link; to resolve every path would cost more than to read."""
    path = folder
    for part in name.split("/"):
        path = f"{path}/{part}"
        if os.path.islink(path):
            return True
    return False


def check_folder(uri: str) -> None:
    """DataError for a local image folder that does not exist; a bucket has no folders."""
    if not is_remote(uri) and not os.path.isdir(uri):
        raise DataError(f"the image folder {uri!r} does not exist; correct images=")


def remote(uri: str, method: str, **options: Any) -> Any:
    """Call a method of the bucket's file system; StorageError without credentials in it."""
    from infra.bucket import bucket

    with _told(uri):
        return getattr(bucket(), method)(uri, **options)


class _Read(io.RawIOBase):
    """An object's bytes; what fails while they are read is a StorageError, as when it is opened."""

    def __init__(self, uri: str, file: BinaryIO) -> None:
        self._uri = uri
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def readinto(self, buffer: Any) -> int:
        with _told(self._uri):
            return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turn an error of the bucket's file system into one message; a missing object stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except troubles(local=False) as error:
        # From None: the chained cause could hold credentials.
        raise StorageError(f"cannot read {uri!r}: {reason(error, local=False)}") from None
