"""Tables: CSV, JSON Lines and Parquet by extension, one row one item."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.places import Found, expand, open_file
from schemas.config import SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.samples import RawRecord, RawReject
from tasks.sources.fields import Layout, layout, record

LONGEST_CELL = 16_000_000
Row = tuple[int, dict[str, Any] | str]  # row number and row, or what is wrong with it


def read(source: SourceConfig, *, max_bytes: int) -> Iterator[RawRecord | RawReject]:
    """A table with columns question and type, and if you have them answer, image, level, split.

    `columns.<field>=<column>` renames; images are paths or, in Parquet, bytes or Hugging Face
    image structs. Other columns travel along in `extra`.

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
    openers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    extension = PurePosixPath(file.name).suffix.lower()
    if extension not in openers:
        raise ConfigError(f"{file.uri!r}: a table ends in {', '.join(openers)}, not {extension!r}")
    return openers[extension]


def _csv(file: Found, columns: Layout) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    with io.TextIOWrapper(open_file(file.uri), encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            header = reader.fieldnames or []
            columns.check(header, file.uri)
            for number, row in enumerate(reader, start=1):
                # A short or long row means a broken quote: its cells may be in wrong columns.
                whole = None not in row and None not in row.values()
                yield number, row if whole else f"not the header's {len(header)} cells"
        except (csv.Error, UnicodeDecodeError, OSError) as error:
            raise DataError(f"{file.uri!r} is not readable CSV: {error}") from error


def _jsonl(file: Found, columns: Layout) -> Iterator[Row]:
    found: set[str] = set()
    with open_file(file.uri) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError) as error:
                yield number, f"not JSON: {error}"
                continue
            if isinstance(row, dict):
                found |= row.keys()
                yield number, row
            elif line.strip():
                yield number, f"not an object: {row!r:.80}"
    # JSON Lines have no header, so a column that no row has shows only here.
    if found:
        columns.check(found, file.uri)


def _parquet(file: Found, columns: Layout) -> Iterator[Row]:
    with open_file(file.uri) as data:
        try:
            table = pq.ParquetFile(data)
            schema = table.schema_arrow
            columns.check(schema.names, file.uri)
            names = _class_names(schema, columns.columns["type"])
            number = 0
            for batch in table.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    if names and row[columns.columns["type"]] is not None:
                        row[columns.columns["type"]] = names[row[columns.columns["type"]]]
                    yield number, row
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.uri!r} is not readable Parquet: {error}") from error


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """Hugging Face stores class labels as numbers and their names only in the metadata."""
    stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return stored.get("info", {}).get("features", {}).get(column, {}).get("names", [])
