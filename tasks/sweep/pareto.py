"""Which of several choices are worth looking at: those that no other beats."""

from collections.abc import Sequence

import pyarrow as pa

from schemas.sweep import COSTS, MATCHED, STAGES


def pareto(costs: Sequence[tuple[float, ...]]) -> list[bool]:
    """Whether no other choice is at least as good in every cost and better in one (lower is)."""

    def beaten(own: tuple[float, ...]) -> bool:
        return any(
            other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in costs
        )

    return [not beaten(own) for own in costs]


def best_point(table: pa.Table) -> tuple[float, int]:
    """Ratio and seed of the model to propose, from the written table.

    Among the Pareto points after the last stage at the matched rate, where all guards are equally
    strict: the one with the least sum of risky requests obeyed and benign ones refused.
    """
    every = table.to_pylist()
    last = max((row["stage"] for row in every if not row["error"]), key=STAGES.index)
    rows = [row for row in every if (row["stage"], row["point"]) == (last, MATCHED)]
    ratios = {row["ratio"] for row in rows if row["pareto"]}
    own = [row for row in rows if row["seed"] is not None and row["ratio"] in ratios]
    best = min(own, key=lambda row: (sum(row[name] for name in COSTS), row["ratio"], row["seed"]))
    return best["ratio"], best["seed"]
