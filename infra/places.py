"""Files that people name: local paths and s3:// URIs, found, opened and identified alike.

The store keeps what psavlm makes; this file reads what others made.
"""

import glob
import os
import re
import stat
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import fsspec
from fsspec.spec import AbstractFileSystem

from infra.faults import reason, troubles
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
        raise ConfigError(f"{uri!r}: only local paths and s3:// are read, not {scheme}://")
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
        DataError: it is missing, a folder, or may not be read.
    """
    try:
        return remote(uri, "open") if is_remote(uri) else open(uri, "rb")
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
    base = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(base, name))
    if os.path.commonpath([base, path]) != base:
        raise PermissionError(name)
    # A named pipe or device would block the reader for ever.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FileNotFoundError(name)
    with open(path, "rb") as file:
        return file.read(limit + 1)


def check_folder(uri: str) -> None:
    """DataError for a local image folder that does not exist; a bucket has no folders."""
    if not is_remote(uri) and not os.path.isdir(uri):
        raise DataError(f"the image folder {uri!r} does not exist; correct images=")


def remote(uri: str, method: str, **options: Any) -> Any:
    """Call a method of the bucket's file system; StorageError without credentials in it."""
    files = _bucket(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
    try:
        return getattr(files, method)(uri, **options)
    except FileNotFoundError:
        raise
    except troubles(local=False) as error:
        # From None: the chained cause could hold credentials.
        raise StorageError(f"cannot read {uri!r}: {reason(error, local=False)}") from None


@lru_cache
def _bucket(endpoint: str | None) -> AbstractFileSystem:
    # Listings must be fresh: a cached one would hide new objects.
    return fsspec.filesystem("s3", endpoint_url=endpoint, use_listings_cache=False)
