"""The rows that stay, by sample_id, with what the policies made of them.

Where they lie in this order already, as ingest writes them, each part is read once and no text
goes through DuckDB; else DuckDB sorts them, on the disk if they are many.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.ahead import ahead
from infra.parts import ROWS_PER_GROUP
from schemas.samples import ROWS
from tasks.validate.facts import PART

if TYPE_CHECKING:
    import duckdb

ORDERED = """
SELECT coalesce(bool_and(before < sample_id), true) FROM (
    SELECT sample_id, lag(sample_id) OVER (ORDER BY position) AS before FROM kept)
"""
DECIDED = f"""
SELECT position - $first::BIGINT AS row, risk_type, supervises, stated_type, clean_by_level
FROM kept WHERE position >= $first::BIGINT AND position < $first::BIGINT + {PART}
ORDER BY position
"""
SORTED = """
SELECT given.* EXCLUDE position REPLACE (kept.risk_type AS risk_type,
    kept.supervises AS supervises), stated_type, clean_by_level
FROM given JOIN kept USING (position) ORDER BY sample_id
"""


def labelled(con: "duckdb.DuckDBPyConnection", rows: Sequence[Path]) -> Iterator[pa.Table]:
    """Tables of ROWS in order.

    Args:
        con: holds `given` and `kept`.
        rows: the parts that `given` was made of, in the same order.
    """
    ((ordered,),) = con.execute(ORDERED).fetchall()
    yield from map(_told, _as_they_lie(con, rows) if ordered else tables(con, SORTED))


def tables(
    con: "duckdb.DuckDBPyConnection", query: str, *, params: dict[str, Any] | None = None
) -> Iterator[pa.Table]:
    """The result of a query in pieces."""
    for piece in con.sql(query, params=params or {}).to_arrow_reader(ROWS_PER_GROUP):
        yield pa.Table.from_batches([piece])


def _as_they_lie(con: "duckdb.DuckDBPyConnection", rows: Sequence[Path]) -> Iterator[pa.Table]:
    decided = (
        (path, con.sql(DECIDED, params={"first": number * PART}).to_arrow_table())
        for number, path in enumerate(rows)
    )
    return ahead(decided, _taken)


def _taken(decided: tuple[Path, pa.Table]) -> pa.Table:
    """The rows of a part that stay, with what was decided on them."""
    path, kept = decided
    with pq.ParquetFile(path) as file:
        table = file.read(columns=ROWS.names).take(kept["row"])
    given = {name: table[name] for name in ROWS.names}
    return pa.table(given | {name: kept[name] for name in kept.column_names[1:]})


def _told(table: pa.Table) -> pa.Table:
    """Rows of ROWS; where a policy made a row clean, `extra` keeps what the source had said.

    A label is never rewritten in silence.
    """
    # One array: of a column without a single chunk, Arrow 25 takes the whole process down.
    rows = pc.indices_nonzero(table["clean_by_level"].combine_chunks()).to_pylist()
    if rows:
        extra = table["extra"].to_pylist()
        for row in rows:
            stated = {**json.loads(extra[row]), "clean_by_level": table["stated_type"][row].as_py()}
            extra[row] = json.dumps(stated, sort_keys=True, ensure_ascii=False)
        place = table.schema.get_field_index("extra")
        table = table.set_column(place, ROWS.field("extra"), pa.array(extra, pa.string()))
    return table.select(ROWS.names).cast(ROWS)
