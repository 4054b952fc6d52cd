"""Where a file's column chunks lie, and the headers of their pages, found as pyarrow finds them."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow.parquet as pq

from tasks.sources.parquet_pages.thrift import BINARY, I32, I64, LIST, STRUCT, Struct, read_struct

# Each value of a page may cost 8 bytes although its data are none.
MOST_VALUES = 20_000_000
MOST_PAGES = 100_000
DICTIONARY, SECOND = 2, 3
# Kind of page -> field of its own header, and field of the encoding in there.
KINDS = {0: (5, 2), DICTIONARY: (7, 2), SECOND: (8, 4)}
PAGE = {field: {} for field, _ in KINDS.values()}
# Parquet's own numbers: https://github.com/apache/parquet-format/blob/master/src/main/thrift
COLUMN = {2: I32, 3: BINARY, 8: {}, 13: {}, 16: {2: I64, 3: I64}, 17: {2: I32}}
CHUNK = {3: COLUMN, 8: {2: {1: BINARY}}}
FOOTER = {2: {}, 4: {1: CHUNK, 4: {}}, 5: {}, 7: {}}
# Bytes of a value; those of a decimal, the widest number, for others of a fixed size.
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "BYTE_ARRAY": 0}
DECIMAL = 16


@dataclass(frozen=True)
class Page:
    """A page's header: sizes in bytes, `count` its values; its bytes begin at `place`.

    `told` is what only its kind of page has, by Parquet's own numbers of fields.
    """

    kind: int
    place: int
    unpacked: int
    packed: int
    count: int
    encoding: int
    told: Struct

    @property
    def dictionary(self) -> bool:
        """Whether it holds the values that other pages name by number."""
        return self.kind == DICTIONARY


@dataclass(frozen=True)
class Column:
    """One column of a row group.

    Args:
        codec: Parquet's number of its compression.
        schema: its physical type, and how deep it lies in lists.
        grows: whether it is read as a dictionary, to which every page adds.
        pages: their headers.
    """

    codec: int
    schema: pq.ColumnSchema
    grows: bool
    pages: list[Page]

    @property
    def nested(self) -> bool:
        """Whether one row may hold many of its values."""
        return self.schema.max_repetition_level > 0

    @property
    def width(self) -> int:
        """Bytes of one value; 0 where values differ."""
        fixed = max(DECIMAL, self.schema.length or 0)
        return WIDTHS.get(self.schema.physical_type, fixed)


def read_footer(data: bytes) -> list[list[Struct]]:
    """What a footer says of each column of each row group.

    Raises:
        ValueError: it is damaged.
    """
    groups = read_struct(io.BytesIO(data), FOOTER).get((4, LIST), [])
    return [[c.get((3, STRUCT), {}) for c in group.get((1, LIST), [])] for group in groups]


def pages(data: BinaryIO, about: Struct) -> Iterator[Page]:
    """The headers of a column's pages, in their order.

    Raises:
        ValueError: one that is damaged or absurd.
    """
    place, first = about.get((9, I64), -1), about.get((11, I64), 0)
    if 0 < first < place:
        place = first
    end, seen, count = place + about.get((7, I64), 0), 0, 0
    while seen < about.get((5, I64), 0) and 0 <= place < end:
        data.seek(place)
        page = _page(data)
        seen += 0 if page.dictionary else page.count
        place, count = page.place + page.packed, count + 1
        if count > MOST_PAGES:
            raise ValueError(f"more than {MOST_PAGES} pages")
        yield page


def _page(data: BinaryIO) -> Page:
    head = read_struct(data, PAGE)
    kind = head.get((1, I32), -1)
    own, encoding = KINDS.get(kind, (0, 0))
    told = head.get((own, STRUCT), {})
    page = Page(
        kind=kind,
        place=data.tell(),
        unpacked=head.get((2, I32), -1),
        packed=head.get((3, I32), -1),
        count=told.get((1, I32), 0),
        encoding=told.get((encoding, I32), 0),
        told=told,
    )
    if min(page.unpacked, page.packed, page.count) < 0:
        raise ValueError("a page whose sizes are missing or negative")
    if page.count > MOST_VALUES:
        raise ValueError(f"a page of {page.count} values, at most {MOST_VALUES} are read")
    return page
