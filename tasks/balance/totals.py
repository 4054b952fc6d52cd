"""The size that a sweep gives all its ratios: what every one of them can be drawn from."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.parts import parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import BalanceConfig
from schemas.errors import DataError
from schemas.samples import askable
from tasks.balance.shares import Stratum, capped, largest_total

STRATUM = ["risk_type", "risk_level", "source"]


def common_total(configs: Iterable[BalanceConfig], labelled: Artifact, *, store: Store) -> int:
    """The largest total of an epoch that each config's ratio can be drawn from without repeats.

    A ratio that cannot be drawn at all is left to fail by itself: it does not bind the others.

    Raises:
        DataError: none of the ratios can be drawn.
    """
    asked = [(c.with_answers_only, c, c.clean_per_unsafe) for c in configs]
    there = training_items(store.local(labelled))
    totals = [
        largest_total(*_sides(_left(there[answered], config)), ratio)
        for answered, config, ratio in asked
    ]
    found = min((total for total in totals if total), default=0)
    if not found:
        (unsafe, clean), (answered_unsafe, answered_clean) = map(_sides, there.values())
        left = " before source_caps" if any(config.source_caps for _, config, _ in asked) else ""
        raise DataError(
            f"no ratio of {sorted({ratio for *_, ratio in asked})} can be drawn: "
            f"the training split has {unsafe} unsafe and {clean} clean rows{left} "
            f"({answered_unsafe} and {answered_clean} of them with an answer); add sources, or "
            "look at the quarantine of validate"
        )
    return found


def training_items(labelled: Path) -> dict[bool, Counter[Stratum]]:
    """Askable items of the training split by stratum: all (False), those with an answer (True)."""
    counts: dict[bool, Counter[Stratum]] = {False: Counter(), True: Counter()}
    for path in parts(labelled / "rows"):
        columns = ["split", "image_ids", "supervises", *STRATUM]
        table = pq.read_table(path, columns=columns, partitioning=None)
        table = table.filter(pc.and_(pc.equal(table["split"], "train"), askable(table)))
        answered = table.filter(pc.equal(table["supervises"], "both"))
        for key, own in ((False, table), (True, answered)):
            grouped = own.group_by(STRATUM).aggregate([([], "count_all")]).to_pylist()
            for row in grouped:
                counts[key][Stratum(*(row[name] for name in STRATUM))] += row["count_all"]
    return counts


def _left(sizes: Mapping[Stratum, int], config: BalanceConfig) -> dict[Stratum, int]:
    seen = {s: n for s, n in sizes.items() if not config.held_out.holds(s.risk_type, s.source)}
    return capped(seen, config.source_caps)


def _sides(sizes: Mapping[Stratum, int]) -> tuple[int, int]:
    """Unsafe and clean items."""
    unsafe = sum(size for stratum, size in sizes.items() if stratum.level > 0)
    return unsafe, sum(sizes.values()) - unsafe
