"""Rows of JSON as strangers write them: bounded in length and nesting, each key once."""

import io
import json
from collections.abc import Iterator
from typing import Any

from infra.places import Found, open_file

# A row of a data set is text and names of images: some kilobytes.
LONGEST_ROW = 4_000_000
DEEPEST = 64
NESTED = (dict, list, tuple)

Parsed = tuple[Any, str | None]  # a value, or what is wrong with it


class Once(dict[str, Any]):
    """An object that remembers a key which came twice; plain dicts keep the last value."""

    twice: str | None = None

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            self.twice = key
        super().__setitem__(key, value)


def json_lines(file: Found) -> Iterator[tuple[int, Any, str | None]]:
    """(number, value, None or what is wrong) of every line that is not empty; N counts from 1."""
    with open_file(file.uri) as data:
        for number, line in enumerate(_lines(data), start=1):
            if line.strip():
                yield number, *parse(line)


def parse(line: bytes) -> Parsed:
    """The value of one row, or what is wrong with it."""
    if len(line) > LONGEST_ROW:
        return None, f"longer than {LONGEST_ROW} bytes"
    try:
        value = json.loads(line, object_pairs_hook=once)
    except UnicodeDecodeError as error:
        bad = f"byte 0x{line[error.start]:02x} at {error.start}"
        return None, f"not UTF-8: {bad}; if it is Latin-1: iconv -f WINDOWS-1252 -t UTF-8"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"
    return checked(value)


def checked(value: Any) -> Parsed:
    """The value, unless it is nested too deeply or holds an object with one key twice."""
    level = [value] if isinstance(value, NESTED) else []
    for _ in range(DEEPEST):
        twice = [part.twice for part in level if isinstance(part, Once) and part.twice is not None]
        if twice:
            return None, f"key {twice[0]!r:.80} is there twice"
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [child for part in parts for child in part if isinstance(child, NESTED)]
        if not level:
            return value, None
    return None, f"nested deeper than {DEEPEST} levels"


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these pairs, which remembers a key that came twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        found = Once()
        for key, value in pairs:
            found[key] = value
    return found


def _lines(data: io.BufferedIOBase) -> Iterator[bytes]:
    """Lines; of one that is too long only the beginning, one byte longer than allowed."""
    buffered = io.BufferedReader(data)  # a bucket's files have no readline with a limit
    while line := buffered.readline(LONGEST_ROW + 1):
        rest = line
        while len(rest) > LONGEST_ROW and not rest.endswith(b"\n"):
            rest = buffered.readline(LONGEST_ROW + 1)
        yield line
