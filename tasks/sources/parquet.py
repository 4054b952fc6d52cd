"""Parquet files row by row in bounded memory, with what Hugging Face keeps in their metadata."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.places import Found, open_file
from schemas.errors import DataError
from tasks.sources.json_rows import checked, parse

ROWS = 64
BYTES = 16_000_000
# A column chunk is read in such pieces, not whole. Where its writer made it one page (as pyarrow
# does with up to 1,024 images), that page is held.
BUFFER = 1_000_000

Row = tuple[int, dict[str, Any] | str]  # row number from 1 and row, or what is wrong with it


@contextmanager
def opened(file: Found) -> Iterator[pq.ParquetFile]:
    """The file; what fails while it is read is a DataError that names it."""
    with open_file(file.uri) as data:
        try:
            yield pq.ParquetFile(data, buffer_size=BUFFER, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            told = " ".join(str(error).split())
            raise DataError(f"{file.uri!r} is not readable Parquet: {told:.500}") from error


def rows(table: pq.ParquetFile) -> Iterator[Row]:
    """All rows, row group by row group, a few at a time where they are large.

    Class labels that are stored as numbers come back as names, -1 (no label) as None.
    """
    names = {c: f["names"] for c, f in features(table).items() if isinstance(f.get("names"), list)}
    number = 0
    for group in range(table.num_row_groups):
        about = table.metadata.row_group(group)
        size, first = about.total_byte_size // max(1, about.num_rows), number
        few = max(1, min(ROWS, BYTES // max(1, size)))
        for batch in table.iter_batches(batch_size=few, row_groups=[group]):
            for row in _values(batch):
                number += 1
                value, fault = (None, row) if isinstance(row, str) else checked(row)
                yield number, fault or _named(value, names)
        if number - first != about.num_rows:
            raise pa.ArrowInvalid(f"{number - first} rows are there, {about.num_rows} are claimed")


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    """The rows of a batch; where one holds what Python has no value for, what is wrong with it."""
    try:
        return batch.to_pylist()
    # Text that is no UTF-8, a date after the year 9999, a time zone that nobody knows.
    except (ValueError, OverflowError, KeyError, ArithmeticError) as error:
        if batch.num_rows == 1:
            return [f"a value cannot be read: {error}"]
        return [row for i in range(batch.num_rows) for row in _values(batch.slice(i, 1))]


def features(table: pq.ParquetFile) -> dict[str, dict[str, Any]]:
    """Column -> Hugging Face's description of it, of a list's items for a list; {} without any."""
    stored, _ = parse((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features"):
        stored = stored.get(key) if isinstance(stored, dict) else None
    found = stored if isinstance(stored, dict) else {}
    return {c: f for c, v in found.items() if isinstance(f := _inner(v), dict)}


def _inner(feature: Any) -> Any:
    """A list is written as [item], or as {"feature": item} of type Sequence, List or LargeList."""
    while isinstance(feature, list) and feature:
        feature = feature[0]
    inner = feature.get("feature") if isinstance(feature, dict) else None
    return _inner(inner) if inner is not None else feature


def _named(row: dict[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any] | str:
    for column in names.keys() & row.keys():
        try:
            row[column] = _name(row[column], names[column])
        except IndexError:
            return f"{column} is {row[column]!r:.80}, and there are {len(names[column])} classes"
    return row


def _name(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_name(item, names) for item in value]
    if not isinstance(value, int):
        return value
    if value < -1:
        raise IndexError(value)
    return None if value == -1 else names[value]
