"""Snapshots of any size for benchmarks: labelled rows as validate writes them, part by part.

Ids are as good as sha256 (uniform, sorted); label, source and split follow the image group; texts
are sentences of made-up words, about 250 bytes a row. `faults` breaks about 1.2 % of the rows, a
little by every rule of validate; without it 2 % of the risky answers that must refuse do not.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.parts import ROWS_PER_PART, write_parts, write_stream
from schemas.samples import MESSAGE, REJECTS, ROWS
from tasks.balance.order import stirred

TYPES = ("politics", "illegal", "insults", "fairness", "privacy", "misleading")
SOURCES = tuple(f"source-{number}" for number in range(8))
HEX = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)
SENTENCES = 40_000
# Of a thousandth of the rows each: lot, column, value. Lots 0 and 1 are copies of another row.
FAULTS = (
    (2, "risk_level", 4), (3, "risk_level", 1), (4, "risk_type", "other"), (5, "split", "dev"),
    (6, "split", "test"), (7, "split", "test"), (7, "source", SOURCES[0]), (8, "group_id", None),
    (9, "supervises", "all"), (10, "risk_level", 0),
    (11, "messages", [{"role": "user", "text": " "}]),
)  # fmt: skip


def write_snapshot(folder: Path, rows: int, *, faults: bool = False) -> None:
    """`rows/` and an empty `rejects/` in a new folder."""
    folder.mkdir(parents=True)
    sentences = _sentences(np.random.default_rng(0))
    tables = (
        _part(start, min(ROWS_PER_PART, rows - start), rows, sentences=sentences, faults=faults)
        for start in range(0, rows, ROWS_PER_PART)
    )
    write_stream(tables, ROWS, folder / "rows")
    write_parts(REJECTS.empty_table(), folder / "rejects")


def _part(start: int, size: int, rows: int, *, sentences: pa.Array, faults: bool) -> pa.Table:
    """The rows from `start`, which do not depend on the size of any part before."""
    rng = np.random.default_rng((start, 1))
    group = rng.integers(0, rows * 7 // 10, size)
    lot = stirred(group.astype(np.uint64), 1)
    risky = lot % 10 < 3
    level = np.where(risky, 1 + lot // 10 % 3, 0)
    kind = np.where(risky, lot // 100 % len(TYPES), len(TYPES))
    columns = {
        "sample_id": _spread(start, size, rows, rng),
        "group_id": _hex(_wide(group)),
        "source": _words(SOURCES, lot // 1_000 % len(SOURCES)),
        "split": _words(("test", "calibration", "train"), np.minimum(lot // 10_000 % 20, 2)),
        "risk_type": _words((*TYPES, "clean"), kind),
        "risk_level": pa.array(level, pa.int8()),
        "supervises": _words(("both", "concept"), rng.random(size) < 0.1),
        "language": _words(("en", ""), rng.random(size) < 0.1),
        "licence": _words(("cc-by-4.0", "mit", ""), rng.integers(0, 3, size)),
    }
    where = pc.binary_join_element_wise(columns["source"], _numbers(start, size), ".json:")
    columns |= {
        "image_ids": _images(group, rng),
        "messages": _turns(sentences, refuses=(level > 1) & (rng.random(size) > 0.02), rng=rng),
        "source_key": where,
        "slices": pa.array([[("region", "north")]] * size, ROWS.field("slices").type),
        "extra": pa.array(["{}"] * size),
    }
    table = pa.table([columns[name] for name in ROWS.names], schema=ROWS)
    return _broken(table, rng) if faults else table


def _sentences(rng: np.random.Generator) -> pa.Array:
    """Of six to eleven words each, about 50 bytes."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(5_000)]
    picked = rng.integers(0, len(words), (SENTENCES, 11)).tolist()
    sizes = rng.integers(6, 12, SENTENCES).tolist()
    lines = (" ".join(words[w] for w in line[:n]) for line, n in zip(picked, sizes, strict=True))
    return pa.array([f"{line}. " for line in lines])


def _text(sentences: pa.Array, least: int, most: int, *, size: int, rng) -> pa.Array:
    """(size,) texts of so many sentences."""
    counts = rng.integers(least, most + 1, size)
    picked = rng.integers(0, SENTENCES, (most, size))
    columns = [
        sentences.take(pa.array(line, mask=counts <= number)) for number, line in enumerate(picked)
    ]
    return pc.binary_join_element_wise(*columns, "", null_handling="skip")


def _turns(sentences: pa.Array, *, refuses: np.ndarray, rng: np.random.Generator) -> pa.Array:
    """(size,) lists of a question and an answer."""
    size = len(refuses)
    questions = _text(sentences, 1, 2, size=size, rng=rng)
    answers = _text(sentences, 1, 6, size=size, rng=rng)
    head = _words(("", "Sorry, I cannot help with that. "), refuses)
    answers = pc.binary_join_element_wise(head, answers, "")
    order = np.arange(2 * size).reshape(2, size).T.reshape(-1)
    texts = pa.concat_arrays([questions, answers]).take(pa.array(order))
    roles = _words(("user", "assistant"), np.arange(2 * size) % 2)
    turns = pa.StructArray.from_arrays([roles, texts], fields=list(MESSAGE))
    return pa.ListArray.from_arrays(np.arange(0, 2 * size + 1, 2, dtype=np.int32), turns)


def _images(group: np.ndarray, rng: np.random.Generator) -> pa.Array:
    """(size,) lists: the group's image, one more for a hundredth of the rows."""
    counts = 1 + (rng.random(len(group)) < 0.01)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    numbers = np.repeat(group, counts)
    numbers[offsets[1:][counts == 2] - 1] += 1 << 40
    return pa.ListArray.from_arrays(offsets, _hex(_wide(numbers)))


def _broken(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """The same with faults: copies of rows and of content, and wrong values in single columns."""
    lot, own = rng.integers(0, 1_000, table.num_rows), np.arange(table.num_rows)
    copies = table.take(pa.array(np.where(lot <= 1, np.maximum(own - 7, 0), own)))
    ids = pc.if_else(pa.array(lot == 0), copies["sample_id"], table["sample_id"])
    copies = _set(_set(copies, "sample_id", ids), "source_key", table["source_key"])
    for number, name, value in FAULTS:
        rows, kind = np.flatnonzero(lot == number), ROWS.field(name).type
        if len(rows):  # values of nested types cannot be chosen by if_else
            given = pa.concat_arrays([*copies[name].chunks, pa.array([value], kind)])
            which = own.copy()
            which[rows] = table.num_rows
            copies = _set(copies, name, given.take(pa.array(which)))
    return copies.sort_by("sample_id")


def _set(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), ROWS.field(name), column)


def _spread(start: int, size: int, rows: int, rng: np.random.Generator) -> pa.Array:
    """(size,) rising ids, uniform over all 256 bits."""
    step = 2**64 // rows
    head = np.arange(start, start + size, dtype=np.uint64) * np.uint64(step)
    head += rng.integers(0, step, size, dtype=np.uint64)
    tail = np.frombuffer(rng.bytes(24 * size), np.uint8).reshape(size, 24)
    return _hex(np.hstack([head.astype(">u8").view(np.uint8).reshape(size, 8), tail]))


def _wide(numbers: np.ndarray) -> np.ndarray:
    """(n, 32) uint8: a number as 32 bytes that look like a hash."""
    parts = [stirred(numbers.astype(np.uint64), turn) for turn in range(2, 6)]
    return np.ascontiguousarray(np.stack(parts, 1)).view(np.uint8).reshape(-1, 32)


def _hex(data: np.ndarray) -> pa.Array:
    """(n,) texts of an (n, 32) array of bytes."""
    offsets = np.arange(0, 64 * len(data) + 1, 64, dtype=np.int32)
    texts = np.ascontiguousarray(HEX[data]).reshape(-1)
    return pa.StringArray.from_buffers(len(data), pa.py_buffer(offsets), pa.py_buffer(texts))


def _words(words: tuple[str, ...], which: np.ndarray) -> pa.Array:
    return pa.array(words).take(pa.array(which.astype(np.int32)))


def _numbers(start: int, size: int) -> pa.Array:
    return pa.array(np.arange(start, start + size)).cast(pa.string())


if __name__ == "__main__":
    place, count, *words = sys.argv[1:]
    write_snapshot(Path(place), int(count), faults="faults" in words)
