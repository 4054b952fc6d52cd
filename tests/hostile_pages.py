"""Parquet files of some hundred bytes that hold gigabytes."""

from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile import ACCEPTED, ERROR, whole
from tests.parquet_by_hand import (
    DELTA_LENGTHS,
    DELTAS,
    FIXED,
    NUMBERS,
    OPTIONAL,
    PLAIN,
    REPEATED,
    REQUIRED,
    TEXT,
    Long,
    coded,
    file,
    page,
    repeated,
    squeezed,
    texts,
    varint,
)


@whole("bad_value", "parquet")
def value_that_a_dictionary_repeats(draw: Random) -> bytes:
    return repeated(b"a", zeros=draw.randrange(2_000_000, 20_000_000), count=draw.randrange(9, 64))


@whole(ERROR, "parquet")
def value_repeated_for_ever(draw: Random) -> bytes:
    return repeated(b"a", zeros=90_000_000, count=draw.choice([50, 60, 900_000]))


@whole(ERROR, "parquet")
def value_of_gigabytes(draw: Random) -> bytes:
    return repeated(b"a", zeros=draw.choice([200_000_000, 400_000_000]), count=3)


@whole(ERROR, "parquet")
def page_that_claims_gigabytes(draw: Random) -> bytes:
    data = squeezed(texts(b"q") + (2**31 - 90).to_bytes(4, "little"), zeros=1_000_000)
    return file(page(data, count=2, unpacked=draw.choice([2**31 - 1, 400_000_000])), rows=2)


@whole(ERROR, "parquet")
def values_repeated_in_one_list(draw: Random) -> bytes:
    count = draw.choice([5_000, 15_000_000])
    # Every value but the first belongs to the second row.
    ones = b"\2\0\2\0" + varint((count - 1) << 1) + b"\1"
    deep = varint((count + 1) << 1) + b"\1"
    levels = b"".join(len(part).to_bytes(4, "little") + part for part in (ones, deep))
    more = {"rows": 2, "levels": levels, "leaf": {1: TEXT, 3: REPEATED, 6: 0}}
    return repeated(b"a", zeros=100_000, count=count, **more)


@whole("bad_row", "parquet")
def numbers_repeated_in_one_list(draw: Random) -> bytes:
    out, count = pa.BufferOutputStream(), draw.randrange(1_500_000, 3_000_000)
    given = {"question": ["q", "r"], "type": ["clean"] * 2, "more": [[1], np.zeros(count)]}
    pq.write_table(pa.table(given), out)
    return out.getvalue().to_pybytes()


@whole(ERROR, "parquet")
def page_of_billions_of_values(draw: Random) -> bytes:
    count = draw.choice([2**31 - 1, 30_000_000])
    return file(page(squeezed(b"\0"), count=count, encoding=NUMBERS, unpacked=1), rows=count)


@whole(ERROR, "parquet")
def rows_made_of_nothing(draw: Random) -> bytes:
    count = draw.choice([2_000_000, 15_000_000])
    return repeated(b"a", zeros=0, count=count)


@whole(ERROR, "parquet")
def lengths_without_end(draw: Random) -> bytes:
    encoding = draw.choice([DELTA_LENGTHS, DELTAS])
    block, count = varint(2**31 - 2**20), varint(2**31 - 1)
    lengths = block + b"\1" + count + b"\0" + b"\0\0"
    return file(
        page(squeezed(lengths * 2), count=9, encoding=encoding, unpacked=2 * len(lengths)), rows=9
    )


@whole(ERROR, "parquet")
def pages_without_end(draw: Random) -> bytes:
    empty = page(b"", count=0, encoding=draw.choice([PLAIN, NUMBERS]))
    return file(empty * 110_000, rows=2)


@whole(ERROR, "parquet")
def bytes_of_a_false_width(draw: Random) -> bytes:
    leaf = {1: FIXED, 2: draw.choice([400_000_000, 2**31 - 1]), 3: OPTIONAL}
    levels = b"\2\0\0\0" + varint(9 << 1) + b"\0"
    return file(page(squeezed(levels), count=9, unpacked=len(levels)), rows=9, leaf=leaf)


@whole(ERROR, "parquet")
def footer_of_many_parts(draw: Random) -> bytes:
    place = {2: Long(0)}
    part = {1: [place] * draw.choice([90_000, 600_000]), 2: Long(0), 3: Long(0)}
    schema = [{4: "root", 5: 1}, {1: TEXT, 3: REQUIRED, 4: "question"}]
    footer = coded({1: 2, 2: schema, 3: Long(0), 4: [part]})[1]
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@whole(ERROR, "parquet")
def histogram_of_levels_that_are_not_there(draw: Random) -> bytes:
    # Asked for such a column's place, pyarrow 25 ends the process.
    page_of_two = page(squeezed(texts(b"q", b"r")), count=2, unpacked=10)
    return file(page_of_two, rows=2, histogram=draw.choice([3, 4, 900]))


@whole(ACCEPTED, "parquet")
def sizes_that_lie(draw: Random) -> bytes:
    return file(
        page(squeezed(texts(b"q", b"r")), count=2, unpacked=10),
        rows=2,
        size=draw.choice([0, 1, 2**40, 2**62]),
    )
