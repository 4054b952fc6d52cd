"""Parquet files made page by page, whose headers and footer say whatever they are told."""

import zlib

TEXT, FIXED = 6, 7  # Parquet's numbers of types
PLAIN, RUNS, DELTA_LENGTHS, DELTAS, NUMBERS = 0, 3, 6, 7, 8
GZIP, REQUIRED, OPTIONAL, REPEATED = 2, 0, 1, 2


class Long(int):
    """A number that Thrift writes as one of 64 bits."""


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def coded(value: object) -> tuple[int, bytes]:
    """Kind and bytes of a value in Thrift's compact encoding; a dict is a struct."""
    if isinstance(value, int):
        zigzag = value << 1 if value >= 0 else ~(value << 1)
        return 6 if isinstance(value, Long) else 5, varint(zigzag)
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        return 8, varint(len(data)) + data
    if isinstance(value, list):
        items = [coded(item) for item in value]
        head = bytes([0xF0 | items[0][0]]) + varint(len(items))
        return 9, head + b"".join(data for _, data in items)
    assert isinstance(value, dict)
    found = b""
    for field, inner in value.items():
        kind, data = coded(inner)
        found += bytes([kind]) + varint(field << 1) + data
    return 12, found + b"\0"


def page(data: bytes, *, count: int, encoding: int = PLAIN, unpacked: int = 0, book=False):
    """A page of packed data that claims any size and any number of values."""
    told = {1: count, 2: encoding} if book else {1: count, 2: encoding, 3: RUNS, 4: RUNS}
    sizes = {1: 2 if book else 0, 2: unpacked or len(data), 3: len(data)}
    return coded({**sizes, 7 if book else 5: told})[1] + data


def squeezed(data: bytes = b"", *, zeros: int = 0) -> bytes:
    """Gzip of data and so many zeros, which are never held."""
    pack = zlib.compressobj(9, wbits=31)
    found = pack.compress(data)
    for _ in range(zeros // 1_000_000):
        found += pack.compress(bytes(1_000_000))
    return found + pack.compress(bytes(zeros % 1_000_000)) + pack.flush()


def texts(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def chunk(name: str, pages: bytes, *, place: int, count: int, **more: int) -> dict[int, object]:
    """What the footer says of a column that begins at a place; `book` bytes are a dictionary."""
    book, size = more.get("book", 0), Long(more.get("size", len(pages)))
    about = {1: more.get("type", TEXT), 2: [PLAIN, RUNS], 3: [name], 4: more.get("codec", 0)}
    about |= {5: Long(count), 6: size, 7: Long(len(pages)), 9: Long(place + book)}
    about |= {16: {3: [Long(1)] * more["histogram"]}} if "histogram" in more else {}
    return {2: Long(place), 3: about | ({11: Long(place)} if book else {})}


def file(pages: bytes, *, rows: int, leaf: dict[int, object] | None = None, **column: int) -> bytes:
    """A file of a `question` of these pages and an honest `type`; the footer claims any `rows`."""
    few = min(rows, 1_000)
    clean = page(texts(b"clean") * few, count=few)
    text = {1: TEXT, 3: REQUIRED, 6: 0}
    schema = [{4: "root", 5: 2}, {**(leaf or text), 4: "question"}, {**text, 4: "type"}]
    kind = schema[1][1]
    count = column.pop("count", rows)
    chunks = [
        chunk("question", pages, place=4, count=count, type=kind, codec=GZIP, **column),
        chunk("type", clean, place=4 + len(pages), count=few),
    ]
    group = {1: chunks, 2: Long(column.get("size", 1_000)), 3: Long(rows)}
    footer = coded({1: 2, 2: schema, 3: Long(rows), 4: [group]})[1]
    return b"PAR1" + pages + clean + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def repeated(value: bytes, *, zeros: int, count: int, **more: object) -> bytes:
    """A dictionary of a short text and one that ends in zeros, then `count` times the second."""
    data = texts(b"q") + (len(value) + zeros).to_bytes(4, "little") + value
    book = page(squeezed(data, zeros=zeros), count=2, unpacked=len(data) + zeros, book=True)
    body = b"\1" + b"\2\0" + varint(count << 1) + b"\1"
    levels = more.pop("levels", b"")
    wrapped = squeezed(levels + body)
    numbers = page(wrapped, count=count + 1, encoding=NUMBERS, unpacked=len(levels + body))
    rows = more.pop("rows", count + 1)
    return file(book + numbers, rows=rows, count=count + 1, book=len(book), **more)
