"""From a pool to an order: how many of each side and stratum, which of them, in what sequence."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

import numpy as np

from schemas.config import NOTHING, BalanceConfig
from schemas.errors import DataError
from tasks.balance.order import first_by_key, plan_order, stirred
from tasks.balance.pool import Pool
from tasks.balance.shares import apportion, sides


@dataclass(frozen=True)
class Order:
    """A training order over a pool.

    chosen (rows,) int64: pool items that occur, by rising place; plan (epochs * N,) int32: the
    sequence, as indices into `chosen`; unsafe and clean: items of an epoch, N together.
    """

    chosen: np.ndarray
    plan: np.ndarray
    unsafe: int
    clean: int


def draw(pool: Pool, config: BalanceConfig) -> Order:
    """The order that a config asks for; `pool` is capped already.

    Raises:
        DataError: a side is empty, or has fewer items than asked for.
    """
    want_unsafe, want_clean = _sizes(pool, config)
    drawn = [
        _choose(pool, want_unsafe, config=config, unsafe=True),
        _choose(pool, want_clean, config=config, unsafe=False),
    ]
    item, copy = (np.concatenate(columns) for columns in zip(*drawn, strict=True))
    chosen, rows = np.unique(item, return_inverse=True)
    plan = plan_order(
        rows.astype(np.int32),
        np.where(copy > 0, stirred(pool.keys[item], copy), pool.keys[item]),
        unsafe=pool.unsafe[item],
        epochs=config.epochs,
    )
    return Order(chosen, plan, want_unsafe, want_clean)


def _sizes(pool: Pool, config: BalanceConfig) -> tuple[int, int]:
    """Unsafe and clean items of an epoch; DataError for a side without a single item."""
    unsafe, clean = int(pool.unsafe.sum()), int((~pool.unsafe).sum())
    ratio = config.clean_per_unsafe
    asked = _kind(config)
    if not unsafe:
        raise DataError(
            f"no unsafe row{asked} in the training split ({clean} clean ones): there is nothing "
            "to learn risks from; add a source with labelled risks, or check its label mapping"
        )
    if ratio > 0 and not clean:
        raise DataError(
            f"no clean row{asked} in the training split ({unsafe} unsafe ones), and "
            f"clean_per_unsafe = {ratio:g}; add a clean source, or set clean_per_unsafe = 0"
        )
    if config.total is None:
        return unsafe, floor(ratio * unsafe + 0.5)
    want_unsafe, want_clean = sides(config.total, ratio)
    if not want_unsafe:
        raise DataError(
            f"total = {config.total} at clean_per_unsafe = {ratio:g} has no unsafe item"
        )
    return want_unsafe, want_clean


def _choose(
    pool: Pool, want: int, *, config: BalanceConfig, unsafe: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Items of one side, of each stratum the first by hash: (index into the pool, which copy)."""
    side = np.flatnonzero(pool.unsafe == unsafe)
    if not want:
        return side[:0], side[:0]
    groups = [(pool.strata[number].name, group) for number, group in pool.by_stratum(side)]
    sizes = {name: len(group) for name, group in groups}
    if want > len(side) * config.max_repeat:
        raise _too_few(want, sizes, config=config, unsafe=unsafe)
    shares = apportion(sizes, want)
    items, copies = [], []
    for name, group in groups:
        rounds, rest = divmod(shares[name], len(group))
        items += [group] * rounds + [group[first_by_key(pool.keys[group], rest)]]
        copies.append(np.arange(shares[name]) // len(group))
    return np.concatenate(items), np.concatenate(copies)


def _too_few(
    want: int, sizes: Mapping[str, int], *, config: BalanceConfig, unsafe: bool
) -> DataError:
    there = sum(sizes.values())
    word, remedy = ("unsafe", "total") if unsafe else ("clean", "clean_per_unsafe or total")
    strata = ", ".join(f"{name}: {n}" for name, n in sorted(sizes.items(), key=lambda s: s[1])[:5])
    left = " after source_caps" if config.source_caps else ""
    return DataError(
        f"{want} {word} items asked for (clean_per_unsafe = {config.clean_per_unsafe:g}), and the "
        f"training split has {there}{left} (smallest strata, type/level/source: {strata}), each "
        f"used at most {config.max_repeat} times; lower {remedy}, or raise max_repeat to "
        f"{-(-want // there)}"
    )


def _kind(config: BalanceConfig) -> str:
    """What the rows of a pool have in common, for a message that finds none."""
    answer = " with an answer" if config.with_answers_only else ""
    held = "" if config.held_out == NOTHING else " that is not held out"
    return f"{answer}{held} after source_caps" if config.source_caps else answer + held
