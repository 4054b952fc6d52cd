"""The size that a sweep gives all its ratios: what every one of them can be drawn from."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.parts import parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import BalanceConfig
from schemas.errors import DataError
from tasks.balance.shares import largest_total


def common_total(configs: Iterable[BalanceConfig], labelled: Artifact, *, store: Store) -> int:
    """The largest total of an epoch that each config's ratio can be drawn from without repeats.

    A ratio that cannot be drawn at all is left to fail by itself: it does not bind the others.

    Raises:
        DataError: none of the ratios can be drawn.
    """
    there = training_items(store.local(labelled))
    asked = {(config.with_answers_only, config.clean_per_unsafe) for config in configs}
    totals = [largest_total(*there[answered], ratio) for answered, ratio in asked]
    found = min((total for total in totals if total), default=0)
    if not found:
        (unsafe, clean), (answered_unsafe, answered_clean) = there[False], there[True]
        raise DataError(
            f"no ratio of {sorted({ratio for _, ratio in asked})} can be drawn: the training split "
            f"has {unsafe} unsafe and {clean} clean rows ({answered_unsafe} and {answered_clean} "
            "of them with an answer); add sources, or look at the quarantine of validate"
        )
    return found


def training_items(labelled: Path) -> dict[bool, tuple[int, int]]:
    """Unsafe and clean items of the training split: all (False), those with an answer (True)."""
    counts = {False: [0, 0], True: [0, 0]}
    for path in parts(labelled / "rows"):
        table = pq.read_table(
            path, columns=["split", "risk_level", "supervises"], partitioning=None
        )
        table = table.filter(pc.equal(table["split"], "train"))
        answered = table.filter(pc.equal(table["supervises"], "both"))
        for key, own in ((False, table), (True, answered)):
            unsafe = pc.sum(pc.greater(own["risk_level"], 0)).as_py() or 0
            counts[key][0] += unsafe
            counts[key][1] += own.num_rows - unsafe
    return {key: (unsafe, clean) for key, (unsafe, clean) in counts.items()}
