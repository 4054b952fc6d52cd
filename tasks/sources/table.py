"""Tables: CSV, JSON Lines, JSON arrays and Parquet by extension, one row one item."""

import csv
import io
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from infra.places import Found, expand, open_file
from schemas.config import SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.samples import RawRecord, RawReject
from tasks.sources import parquet
from tasks.sources.json_array import array_items, top_level
from tasks.sources.json_rows import checked, json_lines
from tasks.sources.layout import SHOWN, Layout, layout
from tasks.sources.parquet import Row
from tasks.sources.record import record

LONGEST_CELL = 16_000_000


def read(source: SourceConfig, *, max_bytes: int) -> Iterator[RawRecord | RawReject]:
    """csv, tsv, jsonl, json or Parquet with question and type, and if known answer, image, level.

    Also split and language. `columns.<field>=<column>` renames, `constants.<field>=` gives all rows
    one value; columns `a+b` are joined, `a|b` hold several labels. Images are paths or, in
    Parquet, bytes or Hugging Face image structs. Other columns travel along in `extra`.

    Example: format=table,uri=mine.csv,images=pictures,columns.question=prompt,columns.type=risk
    """
    columns = layout(source, "canonical")
    for file in expand(source.uri):
        for number, row in _opener(file)(file, columns):
            key = f"{file.name}:{number}"
            if isinstance(row, str):
                yield RawReject(key, "bad_row", row)
            else:
                yield record(row, layout=columns, key=key)


def _opener(file: Found) -> Callable[[Found, Layout], Iterator[Row]]:
    openers = {".csv": _csv, ".jsonl": _json, ".parquet": _parquet, ".json": _json, ".tsv": _csv}
    extension = PurePosixPath(file.name).suffix.lower()
    if extension not in openers:
        raise ConfigError(f"{file.uri!r}: a table ends in {', '.join(openers)}, not {extension!r}")
    return openers[extension]


def _csv(file: Found, columns: Layout) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    comma = "\t" if file.name.lower().endswith(".tsv") else ","
    with io.TextIOWrapper(open_file(file.uri), encoding="utf-8-sig", newline="") as lines:
        metered = _Metered(lines)
        reader = csv.DictReader(metered, strict=True, delimiter=comma)
        try:
            header = reader.fieldnames or []
            columns.check(header, file.uri)
            for number, row in enumerate(reader, start=1):
                metered.since = 0
                # A short or long row means a broken quote: its cells may be in wrong columns.
                whole = None not in row and None not in row.values()
                yield number, row if whole else f"not the header's {len(header)} cells"
        except (csv.Error, UnicodeDecodeError, OSError) as error:
            raise DataError(f"{file.uri!r} is not readable CSV: {error}") from error


def _json(file: Found, columns: Layout) -> Iterator[Row]:
    """JSON Lines or one array, whatever the name says: published .json files are often lines."""
    found: set[str] = set()
    values = _array(file) if top_level(file) == b"[" else json_lines(file)
    for number, row, fault in values:
        if fault is None and isinstance(row, dict):
            found |= columns.wanted & row.keys()
            found.update(islice(row, max(0, SHOWN - len(found))))
            yield number, row
        else:
            yield number, fault or f"not an object: {row!r:.80}"
    # JSON has no header, so a column that no row has shows only here.
    if found:
        columns.check(found, file.uri)


def _array(file: Found) -> Iterator[tuple[int, Any, str | None]]:
    for number, (_, value) in enumerate(array_items(file), start=1):
        yield number, *checked(value)


class _Metered:
    """The lines of a CSV; an error where one row, not known yet, goes on and on."""

    def __init__(self, lines: io.TextIOWrapper) -> None:
        self._lines = lines
        self.since = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._lines.readline(LONGEST_CELL):
            self.since += len(line)
            if self.since >= LONGEST_CELL:
                raise csv.Error(f"a row is longer than {LONGEST_CELL} characters")
            yield line


def _parquet(file: Found, columns: Layout) -> Iterator[Row]:
    with parquet.opened(file) as table:
        columns.check(table.schema_arrow.names, file.uri)
        yield from parquet.rows(table)
