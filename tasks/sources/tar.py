"""Tars of samples: members that share a key, read once from front to back in bounded memory."""

import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from itertools import groupby

from infra.places import Found, open_file
from schemas.errors import DataError

KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
IMAGES = ("bmp", "gif", "jpeg", "jpg", "png", "webp")

Member = tuple[str, str, bytes | None]  # key, extension, content if asked for


def groups(
    file: Found, wanted: Collection[str], *, max_bytes: int
) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """(key, extension -> content) of consecutive members whose names differ after the first dot.

    Only `wanted` extensions are read, each cut one byte above `max_bytes`: a hostile member costs
    no memory. Names without an extension belong to no sample (WebDataset's own rule).

    Raises:
        DataError: the file is no tar, damaged, or cut short.
    """
    for key, members in groupby(_members(file, wanted, max_bytes), key=lambda member: member[0]):
        yield key, {extension: content for _, extension, content in members}


def _members(file: Found, wanted: Collection[str], max_bytes: int) -> Iterator[Member]:
    with open_file(file.uri) as data:
        try:
            with tarfile.open(fileobj=data, mode="r:*") as tar:
                for info in tar:
                    tar.members = []  # it would keep every header
                    match = KEY.match(info.name)
                    if match and info.isfile():
                        extension = match[2].lower()
                        reading = extension in wanted
                        content = tar.extractfile(info).read(max_bytes + 1) if reading else None
                        yield match[1], extension, content
                _check_end(tar)
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise DataError(f"{file.uri!r} is not a whole tar: {error}") from error


def _check_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a damaged header, or a file cut short, for the end: samples would vanish."""
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(512) != bytes(512):
        raise tarfile.ReadError(f"damaged or cut short at byte {tar.offset}")
