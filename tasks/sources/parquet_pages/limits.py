"""What a Parquet file may take while it is read."""

import io
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.sources.parquet_pages.headers import Column, pages, read_footer
from tasks.sources.parquet_pages.lengths import DELTAS, check_lengths, longest
from tasks.sources.parquet_pages.thrift import I32, Struct

# Bytes that a row group may take while it is read, and so many times its stored size: a page of
# images, which hardly compress, may be as large as it is.
UNPACKED = 200_000_000
RATIO = 3
# Bytes that a batch of rows may take at worst.
BATCH = 64_000_000
# A footer becomes some 300 times its bytes: these, or such a share of the file.
FOOTER, FOOTERS = 1_500_000, 100
DICTIONARIES = (2, 8)
TAIL = 8  # bytes behind the footer: its length and a magic number
ENTRY = 20  # bytes that pyarrow keeps beside each value of a dictionary
LEVEL = 4  # bytes that tell a value's place in its list


def open_footer(data: BinaryIO) -> list[list[Struct]]:
    """What the footer says of each column of each row group, if it is small enough to be read.

    Raises:
        ArrowInvalid: it is not, or it is damaged.
    """
    size = data.seek(0, io.SEEK_END)
    data.seek(max(0, size - TAIL))
    length = int.from_bytes(data.read(4), "little")
    if length > max(FOOTER, size // FOOTERS):
        raise pa.ArrowInvalid(
            f"a footer of {length} bytes, at most {max(FOOTER, size // FOOTERS)} are read; if the "
            "file is sound, write it again with fewer columns or larger row groups"
        )
    data.seek(max(0, size - TAIL - length))
    try:
        return read_footer(data.read(length))
    except ValueError as error:
        raise pa.ArrowInvalid(f"the footer: {error}") from error
    finally:
        data.seek(0)


def most_rows(data: BinaryIO, table: pq.ParquetFile, group: int, *, about: list[Struct]) -> int:
    """How many rows of a row group may be read at once; `about` is what the footer says of it.

    Raises:
        ArrowInvalid: a column that takes more memory than it may, or whose pages are damaged.
    """
    if len(about) != table.metadata.num_columns:
        raise pa.ArrowInvalid(f"{len(about)} columns in row group {group}")
    held, stored, row = 0, 0, 0
    grown = tuple(f"{f.name}." for f in table.schema_arrow if "dictionary<" in str(f.type))
    for place, chunk in enumerate(about):
        schema = table.schema.column(place)
        try:
            grows = f"{schema.path}.".startswith(grown)
            column = Column(chunk.get((4, I32), 0), schema, grows, list(pages(data, chunk)))
            stored += sum(page.packed for page in column.pages)
            limit = max(UNPACKED, RATIO * stored)
            for cost in _costs(data, column):
                held += cost
                if held > limit:
                    raise ValueError(_told(cost, held, stored, limit))
        except ValueError as error:
            raise pa.ArrowInvalid(
                f"column {schema.path!r:.80} of row group {group}: {error}"
            ) from error
        row += _value(column)
    return max(1, BATCH // max(1, row))


def _costs(data: BinaryIO, column: Column) -> Iterator[int]:
    """Bytes that a column takes: what headers tell before what must be unpacked."""
    sizes = [page.unpacked + page.packed for page in column.pages if not page.dictionary]
    books = [page for page in column.pages if page.dictionary]
    yield sum(sizes) if column.grows else max(sizes, default=0)
    yield sum(2 * page.unpacked + ENTRY * min(page.count, page.unpacked) for page in books)
    yield column.width
    for page in column.pages:
        check_lengths(data, column, page)
    if not column.nested:
        return
    yield sum((LEVEL + column.width) * page.count for page in column.pages)
    if column.width:
        return
    size = max((longest(data, column, page) for page in books), default=0)
    for page in column.pages:
        if page.encoding in DICTIONARIES:
            yield 0 if page.dictionary else page.count * size
        else:
            yield page.unpacked * (page.count if page.encoding == DELTAS else 1)


def _value(column: Column) -> int:
    """Bytes of one row's value at worst; a list's are counted with its column."""
    if column.nested:
        return 0
    sizes = [page.unpacked for page in column.pages]
    return column.width or (sum(sizes) if column.grows else max(sizes, default=0))


def _told(cost: int, held: int, stored: int, limit: int) -> str:
    return (
        f"reading its {stored} bytes (with the columns before it) takes {held // 1_000_000} MB, "
        f"{cost // 1_000_000} MB at one place, and {limit // 1_000_000} MB are allowed; if the "
        "file is sound, write it again with smaller row groups (pyarrow: row_group_size=1000)"
    )
