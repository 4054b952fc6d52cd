"""A JSON file whose top level is an array or an object, read item by item in bounded memory."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from infra.places import Found, open_file
from schemas.errors import DataError
from tasks.sources.encoding import check_encoding, undecodable
from tasks.sources.json_rows import LONGEST_ROW, once

BOM = b"\xef\xbb\xbf"
PIECE = 65_536
SPACES = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder(object_pairs_hook=once)
EXPECTED = {
    b"[": "a JSON array of records was expected (for JSON Lines use format=table)",
    b"{": "a JSON object with a record for each id was expected",
}


def array_items(found: Found) -> Iterator[tuple[str, Any]]:
    """Yields (`name:N`, value), N counting from 1. Files of any size: never loaded whole.

    Raises:
        DataError: not JSON, another top level than an array, or a record of megabytes.
    """
    with _opened(found, b"[") as text:
        text.mark("[")
        more, number = text.peek() != "]" or text.mark("]") != "]", 0
        while more:
            number += 1
            yield f"{found.name}:{number}", text.value()
            more = text.mark(",]") == ","
        text.end()


def object_items(found: Found) -> Iterator[tuple[str, Any]]:
    """Yields (key, value) of an object in the file's order, one key as often as it occurs.

    Raises:
        DataError: not JSON, another top level than an object, or a record of megabytes.
    """
    with _opened(found, b"{") as text:
        text.mark("{")
        more = text.peek() != "}" or text.mark("}") != "}"
        while more:
            if text.peek() != '"':
                raise ValueError(f"a key was expected, and {text.peek()!r} is there")
            key = text.value()
            text.mark(":")
            yield key, text.value()
            more = text.mark(",}") == ","
        text.end()


def top_level(found: Found) -> bytes:
    """The first byte that is no space: `[` of an array, `{` of an object; empty without any.

    Raises:
        DataError: the file is UTF-16.
    """
    with open_file(found.uri) as file:
        check_encoding(found, file.read(PIECE))
        file.seek(0)
        file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
        pieces = (piece.lstrip() for piece in iter(lambda: file.read(PIECE), b""))
        return next((piece[:1] for piece in pieces if piece), b"")


@contextmanager
def _opened(found: Found, bracket: bytes) -> Iterator["_Text"]:
    """The file's text; what fails while it is read is a DataError."""
    if top_level(found) != bracket:
        raise DataError(
            f"{found.uri!r} does not begin with '{bracket.decode()}': {EXPECTED[bracket]}"
        )
    with io.TextIOWrapper(open_file(found.uri), encoding="utf-8-sig") as file:
        try:
            yield _Text(file)
        except UnicodeDecodeError as error:
            raise undecodable(found) from error
        # ValueError: no JSON; RecursionError: brackets within brackets.
        except (ValueError, RecursionError, OSError) as error:
            raise DataError(f"{found.uri!r} is not readable JSON: {error}") from error


class _Text:
    """The text of a file, of which only the record in question is held."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            self._at = SPACES.match(self._text, self._at).end()
            if self._at < len(self._text) or not self._grow():
                return self._text[self._at : self._at + 1]

    def mark(self, expected: str) -> str:
        """The next character, which must be one of those expected."""
        found = self.peek()
        if not found or found not in expected:
            told = repr(found) if found else "the end"
            raise ValueError(f"one of {' '.join(expected)} was expected, and {told} is there")
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except ValueError:
                if not self._grow():
                    raise
                continue
            # A number that ends with the piece may go on in the next.
            if end < len(self._text) or not self._grow():
                self._at = end
                return value

    def end(self) -> None:
        """ValueError if anything follows."""
        if rest := self.peek():
            raise ValueError(f"{rest!r} follows after its end")

    def _grow(self) -> bool:
        """Hold more of the file, as much again; whether there was more."""
        rest = self._text[self._at :]
        if len(rest) > LONGEST_ROW:
            raise ValueError(f"a record is damaged, or longer than {LONGEST_ROW} characters")
        more = self._file.read(max(PIECE, len(rest)))
        self._text, self._at = rest + more, 0
        return bool(more)
