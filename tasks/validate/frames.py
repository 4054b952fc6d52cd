"""The facts in pandas frames of a bounded size, each of whole groups of equal keys."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

# The key's least value in each batch but the first; rows without a key are in the first one.
STARTS = """
SELECT min({key}) FROM (
    SELECT {key}, (rank() OVER (ORDER BY {key} NULLS FIRST) - 1) // {step} AS batch FROM own_facts
) GROUP BY batch ORDER BY batch OFFSET 1
"""
SIZES = """
SELECT coalesce(sum(n), 0), max(n) FROM (SELECT count(*) AS n FROM own_facts GROUP BY {key})
"""


def frames(
    con: "duckdb.DuckDBPyConnection", columns: list[str], *, key: str, size: int
) -> Iterator[tuple[str, "pd.DataFrame"]]:
    """Facts in frames of at most `size` rows with names for people, equal keys in one frame.

    Only a key that has more than `size` rows by itself makes a larger frame.
    """
    import pandas as pd

    ((rows, most),) = con.execute(SIZES.format(key=key)).fetchall()
    starts: list[Any] = [None]
    if rows > size:
        step = max(1, size - most + 1)
        starts += [start for (start,) in con.execute(STARTS.format(key=key, step=step)).fetchall()]
    digits = len(str(len(starts)))
    for number, (low, high) in enumerate(pairwise([*starts, None]), start=1):
        least = "true" if low is None else f"{key} >= $low"
        below = "true" if high is None else f"({key} < $high OR {key} IS NULL)"
        given = {name: value for name, value in (("low", low), ("high", high)) if value is not None}
        # In order: Great Expectations shows the first of the values that it did not expect.
        query = f"SELECT {', '.join(columns)} FROM own_facts WHERE {least} AND {below} ORDER BY ALL"
        table = con.sql(query, params=given).to_arrow_table()
        # Great Expectations compares numpy's whole numbers at once, all others one by one.
        numbers = [f.name for f in table.schema if pa.types.is_integer(f.type)]
        whole = {name: "int64" for name in numbers if not table[name].null_count}
        frame = table.to_pandas(types_mapper=pd.ArrowDtype).astype(whole)
        yield f"batch {number:0{digits}} of {len(starts)}", frame
