"""How strongly a head disputes a label, the order of the rows, and what a source adds up to.

The dispute of a row is log p(seen) - log p(stated): the log-odds of the most probable type against
the stated one, in nats, after the temperature of the guard's policy. It is 0 where they agree and
never negative. N rows, K risk types, L levels.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.audit import DISPUTED, Kind, SourceAudit
from schemas.taxonomy import Taxonomy

ORDER = [("dispute", "descending"), ("level_dispute", "descending"), ("sample_id", "ascending")]


@dataclass(frozen=True)
class Seen:
    """Calibrated log-probabilities: types [N, K] and levels [N, L], float64."""

    types: np.ndarray
    levels: np.ndarray


def dispute(logs: np.ndarray, stated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class seen [N] and its log-odds against the class stated [N], of [N, K] and [N]."""
    rows, seen = np.arange(len(stated)), logs.argmax(1)
    return seen, logs[rows, seen] - logs[rows, stated]


def ranked(rows: pa.Table, seen: Seen, taxonomy: Taxonomy) -> pa.Table:
    """Rows (schema DISPUTED) whose type or level is disputed: by the type first, then the level."""
    ids = pa.array(taxonomy.type_ids)
    stated = pc.index_in(rows["risk_type"], value_set=ids).to_numpy()
    types, odds = dispute(seen.types, stated)
    levels, level_odds = dispute(seen.levels, rows["risk_level"].to_numpy())
    every = np.arange(len(stated))
    found = {
        "seen_type": ids.take(pa.array(types)),
        "seen_level": pa.array(levels, pa.int8()),
        "stated_probability": np.exp(seen.types[every, stated]),
        "seen_probability": np.exp(seen.types[every, types]),
        "dispute": odds,
        "level_dispute": level_odds,
    }
    table = pa.table({**{name: rows[name] for name in rows.column_names}, **found})
    table = table.filter(pa.array((odds > 0) | (level_odds > 0))).sort_by(ORDER)
    table = table.append_column("rank", pa.array(np.arange(1, table.num_rows + 1)))
    return table.select(DISPUTED.names).cast(DISPUTED)


def by_source(rows: pa.Table, disputed: pa.Table, *, margin: float) -> tuple[SourceAudit, ...]:
    """A line for each source of the rows, by name; rows count as disputed from the margin on."""
    looked_at = Counter(rows["source"].to_pylist())
    # A margin of 0 asks for every row whose type is seen otherwise.
    of_type = _from(disputed, "dispute", margin)
    agreed = disputed.filter(pc.equal(disputed["dispute"], 0))
    of_level = Counter(_from(agreed, "level_dispute", margin)["source"].to_pylist())
    columns = (of_type[name].to_pylist() for name in ("source", "risk_type", "seen_type"))
    kinds = Counter(zip(*columns, strict=True))
    found = []
    for source, count in sorted(looked_at.items()):
        own = sorted(((n, *kind) for (name, *kind), n in kinds.items() if name == source),
                     key=lambda kind: (-kind[0], *kind[1:]))  # fmt: skip
        found.append(
            SourceAudit(
                source=source,
                rows=count,
                disputed=sum(n for n, _, _ in own),
                level_disputed=of_level[source],
                kinds=tuple(Kind(stated=a, seen=b, rows=n) for n, a, b in own),
            )
        )
    return tuple(found)


def _from(table: pa.Table, column: str, margin: float) -> pa.Table:
    values = table[column]
    return table.filter(pc.and_(pc.greater(values, 0), pc.greater_equal(values, margin)))
