"""What an order holds beside what it was asked for, counted in its plan and not in its wishes."""

from collections.abc import Iterator

import numpy as np

from schemas.config import BalanceConfig
from schemas.ratios import EpochRatio, Ratios, Share
from schemas.taxonomy import CLEAN
from tasks.balance.draw import Order
from tasks.balance.pool import Pool


def count_ratios(whole: Pool, pool: Pool, order: Order, config: BalanceConfig) -> Ratios:
    """Asked and achieved, per epoch and per type, level and source.

    Args:
        whole: the items of the training split.
        pool: those of them that `source_caps` leave.
        order: what was drawn from `pool`.
        config: what was asked for.
    """
    epochs = order.plan.reshape(config.epochs, -1)
    unsafe = pool.unsafe[order.chosen]
    risky = [int(unsafe[epoch].sum()) for epoch in epochs]
    uses = np.bincount(epochs[0], minlength=len(order.chosen))
    got = np.zeros(len(pool.strata), np.int64)
    np.add.at(got, pool.stratum[order.chosen], uses)
    types, levels, sources = _shares(whole, pool, order, got)
    return Ratios(
        clean_per_unsafe=config.clean_per_unsafe,
        size=config.size,
        total=config.total,
        max_repeat=config.max_repeat,
        source_caps=config.source_caps,
        rows=len(order.chosen),
        most_uses=int(uses.max()),
        epochs=tuple(
            EpochRatio(epoch=number, unsafe=count, clean=epochs.shape[1] - count)
            for number, count in enumerate(risky, start=1)
        ),
        types=types,
        levels=levels,
        sources=sources,
    )


def _shares(whole: Pool, pool: Pool, order: Order, got: np.ndarray) -> Iterator[tuple[Share, ...]]:
    """Shares by type (`clean` last), by level and by source; `got` are items of each stratum."""
    there, left = whole.sizes(), pool.sizes()
    risky = np.array([stratum.level > 0 for stratum in pool.strata])
    want = np.where(risky, order.unsafe, order.clean)
    side = np.where(risky, left[risky].sum(), left[~risky].sum())
    asked = want * left / np.maximum(side, 1)
    for field in ("risk_type", "level", "source"):
        of = np.array([str(getattr(stratum, field)) for stratum in pool.strata])
        names = sorted(set(of.tolist()), key=lambda name: (name == CLEAN, name))
        yield tuple(
            Share(
                name=name,
                there=int(there[of == name].sum()),
                pool=int(left[of == name].sum()),
                asked=round(float(asked[of == name].sum()), 2),
                unsafe=int(got[(of == name) & risky].sum()),
                clean=int(got[(of == name) & ~risky].sum()),
            )
            for name in names
        )
