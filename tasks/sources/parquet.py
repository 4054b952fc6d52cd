"""Parquet files row by row in bounded memory, with what Hugging Face keeps in their metadata."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from infra.places import Found, is_remote, open_file
from schemas.errors import DataError
from tasks.sources.json_rows import checked, parse
from tasks.sources.parquet_pages import most_rows, open_footer
from tasks.sources.parquet_pages.thrift import LONGEST_LIST, Struct

ROWS = 64
BYTES = 16_000_000
# One row: some images of the largest size, or lists of numbers, each an object in Python.
LONGEST_ROW = 64_000_000
MOST_VALUES = 1_000_000
# A file's values may take so many times its size, and this in any case.
RATIO, UNPACKED = 100, 4_000_000_000
# More rows than a file has bytes come from nothing but repetition.
MOST_ROWS = 1_000_000
# A column chunk is read in such pieces, not whole. Where its writer made it one page (as pyarrow
# does with up to 1,024 images), that page is held.
BUFFER = 1_000_000

Row = tuple[int, dict[str, Any] | str]  # row number from 1 and row, or what is wrong with it


@dataclass(frozen=True)
class Table:
    """An open file of `size` bytes; `groups` is what its footer says of each column."""

    data: BinaryIO
    size: int
    file: pq.ParquetFile
    groups: list[list[Struct]]

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self.file.schema_arrow


@contextmanager
def opened(file: Found) -> Iterator[Table]:
    """The file; what fails while it is read is a DataError that names it."""
    with open_file(file.uri) as data:
        try:
            size, groups = data.seek(0, io.SEEK_END), open_footer(data)
            found = pq.ParquetFile(
                # pyarrow's own file: through Python's each page would be copied once more.
                data if is_remote(file.uri) else pa.OSFile(file.uri),
                buffer_size=BUFFER,
                pre_buffer=False,
                thrift_container_size_limit=LONGEST_LIST,
            )
            if len(groups) != found.num_row_groups:
                raise pa.ArrowInvalid(f"{len(groups)} row groups, or {found.num_row_groups}")
            yield Table(data, size, found, groups)
        # UnicodeDecodeError: the name of a column, or what the metadata say.
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            told = " ".join(str(error).split())
            raise DataError(f"{file.uri!r} is not readable Parquet: {told:.500}") from error


def rows(table: Table) -> Iterator[Row]:
    """All rows, row group by row group, a few at a time where they are large.

    Class labels that are stored as numbers come back as names, -1 (no label) as None.
    """
    names = {c: f["names"] for c, f in features(table).items() if isinstance(f.get("names"), list)}
    claimed = table.file.metadata.num_rows
    if claimed > MOST_ROWS + table.size:
        raise pa.ArrowInvalid(f"{claimed} rows are claimed by {table.size} bytes")
    number, taken = 0, 0
    for batch in _batches(table):
        taken += batch.nbytes
        if taken > max(UNPACKED, RATIO * table.size):
            raise pa.ArrowInvalid(
                f"row {number + 1}: the values so far take {taken} bytes (most in column "
                f"{_largest(batch)!r:.80}), {taken // table.size} times the file; if it is sound, "
                "leave that column out, or write its rows to several files"
            )
        for row in _values(batch):
            number += 1
            value, fault = (None, row) if isinstance(row, str) else checked(row)
            yield number, fault or _named(value, names)


def _batches(table: Table) -> Iterator[pa.RecordBatch]:
    """The rows of one row group after the other, as many at once as fit the memory."""
    for group in range(table.file.num_row_groups):
        about = table.file.metadata.row_group(group)
        size, found = about.total_byte_size // max(1, about.num_rows), 0
        most = most_rows(table.data, table.file, group, about=table.groups[group])
        few = min(ROWS, BYTES // max(1, size), most)
        for batch in table.file.iter_batches(batch_size=max(1, few), row_groups=[group]):
            found += batch.num_rows
            yield pa.record_batch([_plain(column) for column in batch], names=batch.schema.names)
        if found != about.num_rows:
            raise pa.ArrowInvalid(f"{found} rows are there, {about.num_rows} are claimed")


def _plain(column: pa.Array) -> pa.Array:
    """A column without the dictionary that its writer's Arrow gave it."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _largest(batch: pa.RecordBatch) -> str:
    return max(zip((c.nbytes for c in batch), batch.schema.names, strict=True))[1]


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    """The rows of a batch; where one holds what Python has no value for, what is wrong with it."""
    count = sum(map(_count, batch.columns))
    if batch.nbytes > LONGEST_ROW or count > MOST_VALUES:
        told = f"{count} values of {batch.nbytes} bytes, most in column {_largest(batch)!r:.80}"
        return _apart(batch, f"{told}; at most {MOST_VALUES} of {LONGEST_ROW} are read")
    try:
        return batch.to_pylist()
    # Text that is no UTF-8, a date after the year 9999, a time zone that nobody knows.
    except (ValueError, OverflowError, KeyError, ArithmeticError) as error:
        return _apart(batch, f"a value cannot be read: {error}")


def _count(column: pa.Array) -> int:
    """How many values lie in a column, in all its lists."""
    if pa.types.is_struct(column.type):
        return sum(map(_count, column.flatten()))
    if pa.types.is_nested(column.type):
        return len(column) + _count(column.flatten())
    return len(column)


def _apart(batch: pa.RecordBatch, fault: str) -> list[dict[str, Any] | str]:
    """The rows of a batch one by one; what is wrong with it if it is only one."""
    if batch.num_rows == 1:
        return [fault]
    return [row for i in range(batch.num_rows) for row in _values(batch.slice(i, 1))]


def features(table: Table) -> dict[str, dict[str, Any]]:
    """Column -> Hugging Face's description of it, of a list's items for a list; {} without any."""
    stored, _ = parse((table.schema.metadata or {}).get(b"huggingface", b"{}"))
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
