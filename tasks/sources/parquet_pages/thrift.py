"""Thrift's compact encoding, as far as Parquet's footer and page headers use it.

pyarrow shows page headers to nobody, and dies of some footers when asked for a column's place.
"""

import io
from collections.abc import Mapping
from typing import Any, BinaryIO

# Kinds of fields; those of numbers by their bits. Both truths are fields of kind TRUE.
TRUE, FALSE = 1, 2
I16, I32, I64, BINARY, LIST, SET, STRUCT = 4, 5, 6, 8, 9, 10, 12
NUMBERS = {I32: 32, I64: 64}
# Bytes of what is passed over: a truth in a list, a byte, a number with a point.
SIZES = {TRUE: 1, FALSE: 1, 3: 1, 7: 8}
DEEPEST = 16
LONGEST_LIST = 100_000

# Field -> kind of a list's items, or the fields of a struct or of a list's structs.
Fields = Mapping[int, Any]
Struct = dict[tuple[int, int], Any]


def read_struct(file: BinaryIO, fields: Fields, *, depth: int = 0) -> Struct:
    """(field, kind) -> value of a struct's numbers and truths, and of the structs in `fields`.

    It reads what the C++ reader reads: numbers wrap, a field of another kind than expected is
    passed over, one that is there twice has its last value, and two structs become one. A header
    must not say one thing here and another one there.

    Raises:
        ValueError: no such encoding, a list of other items than expected, or the file's end.
    """
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    found: Struct = {}
    field = 0
    # The kind alone ends a struct, whatever else stands in its byte.
    while (head := _byte(file)) & 15:
        step, kind = head >> 4, head & 15
        field = (field + step if step else _signed(number(file), 32)) & 0xFFFF
        inner = fields.get(field)
        if kind in NUMBERS:
            found[field, kind] = _signed(number(file), NUMBERS[kind])
        elif kind in (TRUE, FALSE):
            found[field, TRUE] = kind == TRUE
        elif kind == STRUCT and isinstance(inner, Mapping):
            new = read_struct(file, inner, depth=depth + 1)
            found[field, kind] = {**found.get((field, kind), {}), **new}
        elif kind == LIST and inner is not None:
            found[field, kind] = _read_list(file, inner, depth)
        else:
            _pass(file, kind, depth)
    return found


def number(file: BinaryIO) -> int:
    """A number of up to 64 bits, seven to a byte, the last byte first."""
    found = 0
    for place in range(10):
        byte = _byte(file)
        found |= (byte & 127) << 7 * place
        if byte < 128:
            return found
    raise ValueError("a number of more than ten bytes")


def _read_list(file: BinaryIO, inner: Any, depth: int) -> list[Struct]:
    """The structs of a list; of other items none, which are passed over."""
    kind, count = _list_head(file)
    structs = isinstance(inner, Mapping)
    # The C++ reader takes the items for what they ought to be, whatever the list says of them.
    if count and kind != (STRUCT if structs else inner):
        raise ValueError(f"a list of items of kind {kind}")
    if structs:
        return [read_struct(file, inner, depth=depth + 1) for _ in range(count)]
    for _ in range(count):
        _pass(file, kind, depth + 1)
    return []


def _pass(file: BinaryIO, kind: int, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    if kind == STRUCT:
        read_struct(file, {}, depth=depth + 1)
    elif kind in (LIST, SET):
        inner, count = _list_head(file)
        for _ in range(count):
            _pass(file, inner, depth + 1)
    elif kind in (I16, *NUMBERS):
        number(file)
    elif kind == BINARY:
        file.seek(number(file) & 0x7FFFFFFF, io.SEEK_CUR)
    elif kind in SIZES:
        file.seek(SIZES[kind], io.SEEK_CUR)
    else:
        raise ValueError(f"a field of kind {kind}")


def _list_head(file: BinaryIO) -> tuple[int, int]:
    head = _byte(file)
    count = number(file) if head >> 4 == 15 else head >> 4
    if count > LONGEST_LIST:
        raise ValueError(f"a list of {count} items")
    return head & 15, count


def _signed(value: int, bits: int) -> int:
    """Zigzag: 0, -1, 1, -2, … of the value's lowest `bits`."""
    low = value & (1 << bits) - 1
    return (low >> 1) ^ -(low & 1)


def _byte(file: BinaryIO) -> int:
    found = file.read(1)
    if not found:
        raise ValueError("a header without end")
    return found[0]
