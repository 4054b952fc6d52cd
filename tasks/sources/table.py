"""Tables: CSV, JSON Lines, JSON arrays and Parquet by extension, one row one item."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from infra.places import Found, expand
from schemas.config import SourceConfig
from schemas.errors import ConfigError
from schemas.samples import RawRecord, RawReject
from tasks.sources import parquet
from tasks.sources.csv_rows import csv_rows
from tasks.sources.json_array import array_items, top_level
from tasks.sources.json_rows import checked, json_lines
from tasks.sources.layout import SHOWN, Layout, layout
from tasks.sources.parquet import Row
from tasks.sources.record import record


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
    openers = {
        ".csv": csv_rows,
        ".jsonl": _json,
        ".parquet": _parquet,
        ".json": _json,
        ".tsv": csv_rows,
    }
    extension = PurePosixPath(file.name).suffix.lower()
    if extension not in openers:
        raise ConfigError(f"{file.uri!r}: a table ends in {', '.join(openers)}, not {extension!r}")
    return openers[extension]


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


def _parquet(file: Found, columns: Layout) -> Iterator[Row]:
    with parquet.opened(file) as table:
        columns.check(table.schema.names, file.uri)
        yield from parquet.rows(table)
