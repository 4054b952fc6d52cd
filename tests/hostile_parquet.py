"""Parquet files that would harm a careless reader."""

import io
import json
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.config import SourceConfig
from tests.hostile import ACCEPTED, ERROR, encoded, kind, table, whole


def parquet(**columns: object) -> bytes:
    out = io.BytesIO()
    given = {"question": ["q", "r"], "type": ["clean", "clean"], **columns}
    pq.write_table(pa.table(given), out)
    return out.getvalue()


@whole(ERROR, "parquet")
def parquet_cut_short(draw: Random) -> bytes:
    data = parquet()
    return draw.choice(
        [data[: draw.randrange(len(data))], data[draw.randrange(1, 99) :], b"PAR1" * 2]
    )


@whole(ERROR, "parquet")
def parquet_that_is_none(draw: Random) -> bytes:
    return draw.choice(
        [
            b"question,type\nq,clean\n",
            b"",
            b"PAR1" + draw.randbytes(99) + b"PAR1",
            b"PARE" * 9,
            encoded("PNG"),
        ]
    )


@whole(ERROR, "parquet")
def footer_of_a_false_length(draw: Random) -> bytes:
    length = draw.choice([0, 1, 2**31 - 1, 2**32 - 1, 99_999])
    return parquet()[:-8] + length.to_bytes(4, "little") + b"PAR1"


@whole(ERROR, "parquet")
def page_that_is_damaged(draw: Random) -> bytes:
    data = bytearray(parquet(answer=pa.array([draw.randbytes(400).hex(), "a"])))
    data[4:60] = bytes(draw.choice([0, 255]) for _ in range(56))
    return bytes(data)


@whole(ERROR, "parquet")
def number_of_rows_that_is_false(draw: Random) -> bytes:
    rows, out = 3_000, io.BytesIO()
    names = pa.table({"question": ["q"] * rows, "type": ["clean"] * rows})
    pq.write_table(names, out)
    data = out.getvalue()
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    false = draw.choice([b"\xfe\x7f", b"\xf2\x2e", b"\xf1\x2e"])
    return data[:end] + data[end:].replace(b"\xf0\x2e", false)


@whole("bad_value", "parquet")
def column_of_another_type(draw: Random) -> bytes:
    odd = [pa.array([None, 7]), pa.array([None, True]), pa.array([None, [1]])]
    return parquet(answer=draw.choice([*odd, pa.array([None, {"a": 1}])]))


@whole("bad_row", "parquet")
def value_that_python_has_not(draw: Random) -> bytes:
    far = pa.array([0, 2**62]).cast(pa.timestamp("us"))
    text = pa.StringArray.from_buffers(
        2, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0])), pa.py_buffer(b"a\xff\xfe")
    )
    days = pa.array([0, 2**31 - 1], pa.int32()).cast(pa.date32())
    long = pa.array([0, 2**62]).cast(pa.duration("s"))
    return parquet(more=draw.choice([far, text, days, long]))


@whole(ERROR, "parquet")
def field_that_is_there_twice(draw: Random) -> bytes:
    inner = pa.StructArray.from_arrays([pa.array([1, 2])] * 2, names=["a", "a"])
    return parquet(**{draw.choice(["more", "answer"]): inner})


@whole("bad_row", "parquet")
def class_that_is_not_there(draw: Random) -> bytes:
    schema = pa.schema([("question", pa.string()), ("type", pa.int64())])
    info = {"info": {"features": {"type": {"names": ["clean"], "_type": "ClassLabel"}}}}
    schema = schema.with_metadata({"huggingface": json.dumps(info)})
    out, number = io.BytesIO(), draw.choice([1, -2, 2**62])
    pq.write_table(pa.table([["q", "r"], [0, number]], schema=schema), out)
    return out.getvalue()


@whole(ACCEPTED, "parquet")
def metadata_that_is_odd(draw: Random) -> bytes:
    deep = b'{"info": {"features": {"type": ' + b"[" * 90_000 + b"]" * 90_000 + b"}}}"
    odd = [deep, b"{", b"\xff", b'{"info": {"features": {"type": {"names": [1]}}}}', b"[" * 99_999]
    pickled = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": "\x80\x04cposix\nabort\n)R.",
    }
    fields = [
        pa.field("question", pa.string()),
        pa.field("type", pa.string()),
        pa.field("more", pa.int64(), metadata=pickled),
    ]
    schema = pa.schema(fields, metadata={"huggingface": draw.choice(odd)})
    out = io.BytesIO()
    pq.write_table(pa.table([["q"], ["clean"], [1]], schema=schema), out)
    return out.getvalue()


@whole("bad_row", "parquet")
def column_nested_too_deeply(draw: Random) -> bytes:
    inner: object = 1
    for _ in range(draw.choice([70, 90])):
        inner = [inner] if draw.random() < 0.5 else {"a": inner}
    return parquet(more=pa.array([None, inner]))


@kind(ERROR)
def parquet_with_a_column_twice(folder: Path, draw: Random) -> SourceConfig:
    columns = [pa.array(["q"]), pa.array(["clean"]), pa.array(["privacy"])]
    twice = draw.choice(["type", "question"])
    found = pa.Table.from_arrays(columns, names=["question", "type", twice])
    out = io.BytesIO()
    pq.write_table(found, out)
    return table(folder, "t.parquet", out.getvalue())


@kind("bad_value")
def image_struct_of_another_kind(folder: Path, draw: Random) -> SourceConfig:
    odd = draw.choice([7, {"bytes": None, "path": None}, {"more": b"x"}, 1.5])
    content = parquet(image=pa.array([None, odd]))
    return table(folder, "t.parquet", content, form="hf-parquet")


@kind("image_unreadable")
def image_struct_of_bad_bytes(folder: Path, draw: Random) -> SourceConfig:
    bad = encoded("PNG")[: draw.randrange(900)]
    content = parquet(image=pa.array([{"bytes": encoded("PNG")}, {"bytes": bad}]))
    return table(folder, "t.parquet", content, form="hf-parquet")
