"""Pages that must be unpacked to know what their values take: dictionaries, lengths as deltas."""

import io
import struct
from typing import BinaryIO

import pyarrow as pa

from tasks.sources.parquet_pages.headers import SECOND, Column, Page
from tasks.sources.parquet_pages.thrift import I32, TRUE, number

DELTA_LENGTHS, DELTAS = 6, 7
MOST_ENTRIES = 4_000_000
PLAIN = 0
CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}


def check_lengths(data: BinaryIO, column: Column, page: Page) -> None:
    """ValueError if a page of texts as deltas has more lengths than values.

    pyarrow makes room for as many lengths as such a page claims among its data, not in its header:
    60 bytes would become 8 GB.
    """
    if column.width or page.dictionary or page.encoding not in (DELTA_LENGTHS, DELTAS):
        return
    body = io.BytesIO(_values(data, column, page))
    for _ in range(page.encoding - DELTA_LENGTHS + 1):
        _pass_lengths(body, most=page.count)


def longest(data: BinaryIO, column: Column, page: Page) -> int:
    """Bytes of the longest value of a dictionary page; the page's where they are too many."""
    if page.count > MOST_ENTRIES:
        return page.unpacked
    body, place, most = _values(data, column, page), 0, 0
    try:
        for _ in range(page.count):
            (size,) = struct.unpack_from("<I", body, place)
            place, most = place + 4 + size, max(most, size)
    except struct.error as error:
        raise ValueError("a dictionary without end") from error
    return most


def _values(data: BinaryIO, column: Column, page: Page) -> bytes:
    """The unpacked bytes of a page's values, without the levels before them."""
    data.seek(page.place)
    body = data.read(page.packed)
    levels = sum(page.told.get((f, I32), 0) for f in (5, 6)) if page.kind == SECOND else 0
    if min(levels, page.unpacked - levels) < 0:
        raise ValueError("levels longer than their page")
    body = body[levels:]
    if column.codec != PLAIN and page.told.get((7, TRUE), True):
        if column.codec not in CODECS:
            raise ValueError(f"a compression that is not known, number {column.codec}")
        codec = pa.Codec(CODECS[column.codec])
        body = codec.decompress(body, page.unpacked - levels, asbytes=True)
    if page.kind == SECOND or page.dictionary:
        return body
    schema = column.schema
    for _ in range((schema.max_repetition_level > 0) + (schema.max_definition_level > 0)):
        body = body[4 + int.from_bytes(body[:4], "little") :]
    return body


def _pass_lengths(body: io.BytesIO, *, most: int) -> None:
    """Pass a block of numbers as deltas: values a block, parts a block, count, first value."""
    block, parts, count, _ = (number(body) for _ in range(4))
    if count > most or not 0 < parts <= block:
        raise ValueError(f"{count} lengths of {most} values")
    left = count - 1
    while left > 0:
        number(body)  # the least delta
        for width in body.read(parts):
            if left > 0:
                body.seek(width * (block // parts) // 8, io.SEEK_CUR)
                left -= block // parts
