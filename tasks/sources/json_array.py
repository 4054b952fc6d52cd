"""A JSON file whose top level is an array or an object, read item by item in bounded memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import ijson

from infra.places import Found, open_file
from schemas.errors import DataError
from tasks.sources.json_rows import LONGEST_ROW, Once

BOM = b"\xef\xbb\xbf"
PIECE = 65_536
# Brackets without an end: every one costs some hundred bytes before its record is whole.
MOST_OPEN = 500_000
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
        values = ijson.items(file, "item", use_float=True, map_type=Once)
        for number, value in enumerate(values, start=1):
            file.fresh()
            yield f"{found.name}:{number}", value


def object_items(found: Found) -> Iterator[tuple[str, Any]]:
    """Yields (key, value) of an object in the file's order, one key as often as it occurs.

    Raises:
        DataError: not JSON, or another top level than an object.
    """
    with _opened(found, b"{") as file:
        for key, value in ijson.kvitems(file, "", use_float=True, map_type=Once):
            file.fresh()
            yield key, value


def top_level(found: Found) -> bytes:
    """The first byte that is no space: `[` of an array, `{` of an object; empty without any."""
    with open_file(found.uri) as file:
        return _first(file)


def _first(file: BinaryIO) -> bytes:
    """The first byte after BOM and spaces; leaves the file where JSON begins."""
    file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
    start = file.tell()
    pieces = (piece.lstrip() for piece in iter(lambda: file.read(PIECE), b""))
    first = next((piece[:1] for piece in pieces if piece), b"")
    file.seek(start)
    return first


@contextmanager
def _opened(found: Found, bracket: bytes) -> Iterator["_Metered"]:
    """The file where its JSON begins; what fails while it is read is a DataError."""
    with open_file(found.uri) as file:
        if _first(file) != bracket:
            raise DataError(
                f"{found.uri!r} does not begin with '{bracket.decode()}': {EXPECTED[bracket]}"
            )
        try:
            yield _Metered(file)
        # ValueError: a number of thousands of digits, or bytes that are no text.
        except (ijson.JSONError, OSError, ValueError) as error:
            raise DataError(f"{found.uri!r} is not readable JSON: {error}") from error


class _Metered:
    """A file that ends with an error where one record, not known yet, goes on and on."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.fresh()

    def fresh(self) -> None:
        """A record is whole."""
        self._since = self._open = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._since += len(data)
        self._open += data.count(b"[") + data.count(b"{") - data.count(b"]") - data.count(b"}")
        if self._since > LONGEST_ROW + PIECE or self._open > MOST_OPEN:
            raise ijson.JSONError(
                f"a record is longer than {LONGEST_ROW} bytes or opens {MOST_OPEN} brackets"
            )
        return data
