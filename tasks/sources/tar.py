"""Tars of samples: members that share a key, read once from front to back in bounded memory."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import BinaryIO

from infra.places import Found, open_file
from schemas.errors import DataError

KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
IMAGES = ("bmp", "gif", "jpeg", "jpg", "png", "webp")
UNPACK = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
# A compressed tar may unpack to so many times its size (images: 1, JSON: 20), and this in any case.
RATIO = 100
UNPACKED = 1_000_000_000
HEADERS = 1_000_000
LONGEST_NAME = 1_000
MOST_MEMBERS = 100
# A hostile tar brings Python's own parser to all of these.
FAULTS = (
    tarfile.TarError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RecursionError,
    zlib.error,
    lzma.LZMAError,
)

Member = tuple[str, str, bytes | None]  # key, extension, content if asked for


def groups(
    file: Found, wanted: Collection[str], *, max_bytes: int
) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """(key, extension -> content) of consecutive members whose names differ after the first dot.

    Only `wanted` extensions are read, each cut one byte above `max_bytes`: a hostile member costs
    no memory. Names without an extension belong to no sample (WebDataset's own rule). What is no
    file (a link, a device) or is there twice has no content, and an extension that says so.

    Raises:
        DataError: the file is no tar, damaged, cut short, or unpacks to more than tars do.
    """
    for key, members in groupby(_members(file, wanted, max_bytes), key=lambda member: member[0]):
        parts: dict[str, bytes | None] = {}
        for _, extension, content in members:
            if extension in parts:
                del parts[extension]
                parts[f"{extension} (twice)"] = None
            elif len(parts) < MOST_MEMBERS:
                parts[extension] = content
        yield key, parts


def _members(file: Found, wanted: Collection[str], max_bytes: int) -> Iterator[Member]:
    with open_file(file.uri) as data:
        try:
            stream = _Stream(data, most=max_bytes + HEADERS)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                last = -1
                for info in tar:
                    tar.members = []  # it would keep every header
                    if info.size < 0 or info.offset_data <= last:
                        raise tarfile.ReadError(f"a member that ends before it begins, at {last}")
                    last = info.offset_data
                    if found := _named(info):
                        key, extension = found
                        reading = extension in wanted
                        content = tar.extractfile(info).read(max_bytes + 1) if reading else None
                        yield key, extension, content
                    stream.since = 0
                _check_end(tar)
        except FAULTS as error:
            raise DataError(f"{file.uri!r} is not a whole tar: {error}") from error


def _named(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and extension; None for what belongs to no sample."""
    if len(info.name) > LONGEST_NAME:
        return info.name[:LONGEST_NAME], "(name too long)"
    match = KEY.match(info.name)
    if not match or info.isdir():
        return None
    return match[1], match[2].lower() + ("" if info.isfile() else " (no file)")


def _check_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a damaged header, or a file cut short, for the end: samples would vanish."""
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(512) != bytes(512):
        raise tarfile.ReadError(f"damaged or cut short at byte {tar.offset}")


class _Stream:
    """A tar's unpacked bytes, in which no header or jump goes on for ever.

    Args:
        data: the file.
        most: bytes that may be read until `since` is set to 0 again: a member and its headers.
    """

    def __init__(self, data: BinaryIO, *, most: int) -> None:
        head = data.read(512)
        self._end = data.seek(0, io.SEEK_END)
        data.seek(0)
        packed = [kind for magic, kind in UNPACK.items() if head.startswith(magic)]
        # A plain tar may begin with the name of a member that looks like a compressed file.
        if packed and head[257:262] != b"ustar":
            data, self._end = packed[0](data), max(UNPACKED, RATIO * self._end)
        self._data, self._most = data, most
        self.since = 0

    def read(self, size: int) -> bytes:
        self.since += size
        if self.since > self._most:
            raise tarfile.ReadError(f"headers of more than {HEADERS} bytes")
        return self._data.read(size)

    def seek(self, place: int) -> int:
        if place > self._end:
            raise tarfile.ReadError(f"its next member begins at byte {place} of {self._end}")
        return self._data.seek(place)

    def tell(self) -> int:
        return self._data.tell()
