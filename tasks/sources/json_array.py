"""A JSON file whose top level is an array or an object, read item by item in bounded memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import ijson

from infra.places import Found, open_file
from schemas.errors import DataError

BOM = b"\xef\xbb\xbf"
EXPECTED = {
    b"[": "a JSON array of records was expected (for JSON Lines use format=table)",
    b"{": "a JSON object with a record for each id was expected",
}


def array_items(found: Found) -> Iterator[tuple[str, Any]]:
    """Yields (`name:N`, value), N counting from 1. Files of any size: never loaded whole.

    Raises:
        DataError: not JSON, or another top level than an array.
    """
    with _opened(found, b"[") as file:
        for number, value in enumerate(ijson.items(file, "item", use_float=True), start=1):
            yield f"{found.name}:{number}", value


def object_items(found: Found) -> Iterator[tuple[str, Any]]:
    """Yields (key, value) of an object in the file's order, one key as often as it occurs.

    Raises:
        DataError: not JSON, or another top level than an object.
    """
    with _opened(found, b"{") as file:
        yield from ijson.kvitems(file, "", use_float=True)


def top_level(found: Found) -> bytes:
    """The first byte that is no space: `[` of an array, `{` of an object; empty without any."""
    with open_file(found.uri) as file:
        return _first(file)


def _first(file: BinaryIO) -> bytes:
    """The first byte after BOM and spaces; leaves the file where JSON begins."""
    file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
    start = file.tell()
    first = next((c for c in iter(lambda: file.read(1), b"") if not c.isspace()), b"")
    file.seek(start)
    return first


@contextmanager
def _opened(found: Found, bracket: bytes) -> Iterator[BinaryIO]:
    """The file where its JSON begins; what fails while it is read is a DataError."""
    with open_file(found.uri) as file:
        if _first(file) != bracket:
            raise DataError(
                f"{found.uri!r} does not begin with '{bracket.decode()}': {EXPECTED[bracket]}"
            )
        try:
            yield file
        except (ijson.JSONError, OSError) as error:
            raise DataError(f"{found.uri!r} is not readable JSON: {error}") from error
