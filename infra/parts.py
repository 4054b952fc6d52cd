"""Parquet tables in parts: how rows and rejects lie in an artifact's folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import StorageError

ROWS_PER_PART = 100_000
ROWS_PER_GROUP = 8_192


def part_name(number: int) -> str:
    """The name of a part; names sort like numbers."""
    return f"part-{number:05d}.parquet"


def write_parts(table: pa.Table, folder: Path) -> None:
    """A table -> `part-*.parquet` in a new folder; an empty table is one part without rows."""
    folder.mkdir()
    for number, start in enumerate(range(0, max(1, table.num_rows), ROWS_PER_PART)):
        part = table.slice(start, ROWS_PER_PART)
        pq.write_table(part, folder / part_name(number), row_group_size=ROWS_PER_GROUP)


def write_stream(tables: Iterable[pa.Table], schema: pa.Schema, folder: Path) -> None:
    """Tables of one schema, in order -> the parts that `write_parts` would make of them as one.

    One part is held in memory, and how the rows came in pieces does not show in the files.
    """
    folder.mkdir()
    held, number = schema.empty_table(), 0
    for table in tables:
        held = pa.concat_tables([held, table])
        while held.num_rows >= ROWS_PER_PART:
            _write_part(held.slice(0, ROWS_PER_PART), folder, number)
            held, number = held.slice(ROWS_PER_PART), number + 1
    if held.num_rows or not number:
        _write_part(held, folder, number)


def _write_part(table: pa.Table, folder: Path, number: int) -> None:
    whole = table.combine_chunks()
    pq.write_table(whole, folder / part_name(number), row_group_size=ROWS_PER_GROUP)


def parts_of(folder: Path, schema: pa.Schema) -> list[Path]:
    """The parts of a folder in order, to be streamed; StorageError if one has other columns."""
    found = parts(folder)
    for part in found:
        own = pq.read_schema(part)
        wrong = [f.name for f in schema if f.name not in own.names or own.field(f.name) != f]
        if wrong:
            raise StorageError(f"{part} lacks, or has in another type, {wrong} of {schema.names}")
    return found


def parts(folder: Path) -> list[Path]:
    """The parts of a folder in order; StorageError if there are none."""
    found = sorted(folder.glob("part-*.parquet"))
    if not found:
        raise StorageError(f"{folder} holds no part-*.parquet: it is not a step's output")
    return found


def read_parts(
    folder: Path, schema: pa.Schema, *, columns: Sequence[str] | None = None
) -> pa.Table:
    """All parts of a folder in order, as one table of this schema or of some of its columns.

    Raises:
        StorageError: no parts, or parts of another schema: not this step's output.
    """
    wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns])
    try:
        tables = [pq.read_table(p, columns=wanted.names, partitioning=None) for p in parts(folder)]
        return pa.concat_tables([t.select(wanted.names).cast(wanted) for t in tables])
    except (pa.ArrowException, KeyError) as error:
        raise StorageError(f"{folder} does not hold tables of {wanted.names}: {error}") from error
