"""What holds of every training order, whatever the rows, ratio, seed and size (hypothesis)."""

from collections import Counter

import numpy as np
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from schemas.config import BalanceConfig
from tasks.balance import Pool, Stratum, apportion, capped, draw, hash_keys, largest_total, sides
from tasks.balance.ratios import count_ratios

# The same examples in every run, however slow the machine.
FIXED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

KINDS = st.builds(
    lambda kind, level, source: Stratum("clean" if not level else kind, level, source),
    st.sampled_from(["politics", "privacy", "a/b"]),
    st.integers(0, 3),
    st.sampled_from(["one", "two", "three/4"]),
)
STRATA = st.dictionaries(KINDS, st.integers(1, 40), min_size=1, max_size=7)
RATIOS = st.one_of(
    st.sampled_from([0.0, 1 / 99, 0.27, 1.0, 7.3, 99.0]),
    st.floats(0, 20, allow_nan=False, allow_infinity=False),
)
CAPS = st.dictionaries(st.sampled_from(["one", "two", "three/4"]), st.integers(0, 60))
SEEDS = st.integers(0, 2**32)


def ids(strata: dict[Stratum, int]) -> list[tuple[str, Stratum]]:
    """A name for every item."""
    return [(f"{s.name}#{number}", s) for s, size in strata.items() for number in range(size)]


def pool_of(items: list[tuple[str, Stratum]], *, seed: int = 0) -> Pool:
    """A pool of items in the order in which they are listed."""
    strata = list(dict.fromkeys(stratum for _, stratum in items))
    return Pool(
        keys=hash_keys([name for name, _ in items], seed=seed),
        place=np.arange(len(items)),
        stratum=np.array([strata.index(stratum) for _, stratum in items], np.int32),
        strata=tuple(strata),
    )


def config_for(strata: dict[Stratum, int], ratio: float, **more) -> BalanceConfig:
    """A config that can be drawn: with as many repeats as the smaller side needs."""
    unsafe, clean = counts(strata)
    assume(unsafe and (clean or not ratio))
    want = more.get("total") or round(ratio * unsafe) + unsafe + 1
    repeats = -(-want // min(unsafe, clean or unsafe))
    size = "fixed_total" if "total" in more else "keep_unsafe"
    return BalanceConfig(
        **{"clean_per_unsafe": ratio, "size": size, "max_repeat": repeats, "epochs": 2, **more}
    )


def counts(strata: dict[Stratum, int]) -> tuple[int, int]:
    unsafe = sum(size for stratum, size in strata.items() if stratum.level)
    return unsafe, sum(strata.values()) - unsafe


def drawn_names(items: list[tuple[str, Stratum]], config: BalanceConfig) -> list[str]:
    """The plan as names of items."""
    pool = pool_of(items, seed=config.seed).capped(config.source_caps)
    order = draw(pool, config)
    return [items[pool.place[order.chosen[row]]][0] for row in order.plan]


# --- the plan ---


@FIXED
@given(STRATA, RATIOS, st.integers(1, 4), SEEDS)
def test_every_epoch_is_a_permutation_of_the_same_items(strata, ratio, epochs, seed):
    items, config = ids(strata), config_for(strata, ratio, epochs=epochs, seed=seed)
    order = draw(pool_of(items, seed=seed), config)
    plan = order.plan.reshape(epochs, -1)
    assert plan.shape[1] == order.unsafe + order.clean
    assert (np.sort(plan, axis=1) == np.sort(plan[0])).all()
    uses = np.bincount(plan[0], minlength=len(order.chosen))
    assert uses.min() >= 1 and uses.max() <= config.max_repeat
    if config.total is None:
        assert order.unsafe == counts(strata)[0]  # keep_unsafe: all of them, each once
        assert abs(order.clean - ratio * order.unsafe) <= 0.5


@FIXED
@given(STRATA, RATIOS, st.integers(1, 300), st.integers(1, 90), SEEDS)
def test_every_window_of_any_size_holds_the_ratio_to_within_one_item(
    strata, ratio, total, size, seed
):
    assume(sides(total, ratio)[0])
    items, config = ids(strata), config_for(strata, ratio, total=total, seed=seed)
    order = draw(pool_of(items, seed=seed), config)
    unsafe = pool_of(items).unsafe[order.chosen[order.plan]]
    epochs = unsafe.reshape(config.epochs, -1).sum(1)
    assert np.abs(epochs - total / (1 + ratio)).max() <= 1
    size = min(size, len(unsafe))
    upto = np.concatenate([[0], np.cumsum(unsafe)])
    windows = upto[size:] - upto[:-size]
    assert np.abs(windows - size * order.unsafe / total).max() < 1
    batches = windows[::size]
    rounding = 0.5 * size / total  # the epoch itself is a whole number of items
    assert np.abs(batches - size / (1 + ratio)).max() <= 1 + rounding


@FIXED
@given(STRATA, CAPS, RATIOS, SEEDS, st.randoms(use_true_random=False))
def test_the_plan_does_not_know_in_which_order_the_rows_were_listed(
    strata, caps, ratio, seed, random
):
    items = ids(strata)
    config = config_for(capped(strata, caps), ratio, seed=seed, source_caps=caps)
    shuffled = random.sample(items, len(items))
    assert drawn_names(shuffled, config) == drawn_names(items, config)


@FIXED
@given(STRATA, st.lists(st.floats(0, 1), min_size=2, max_size=5), SEEDS)
def test_a_larger_ratio_takes_every_item_that_a_smaller_one_takes(strata, parts, seed):
    strata = {**strata, Stratum("clean", 0, "one"): 9, Stratum("privacy", 2, "one"): 7}
    items, (unsafe, clean) = ids(strata), counts(strata)
    taken = [
        set(drawn_names(items, BalanceConfig(clean_per_unsafe=ratio, epochs=1, seed=seed)))
        for ratio in sorted(part * clean / unsafe for part in parts)
    ]
    assert all(small <= large for small, large in zip(taken, taken[1:], strict=False))


@FIXED
@given(STRATA, RATIOS, st.integers(1, 200), SEEDS)
def test_a_larger_total_takes_every_item_that_a_smaller_one_takes(strata, ratio, total, seed):
    most = largest_total(*counts(strata), ratio)
    assume(most and sides(min(total, most), ratio)[0])
    few, many = (
        set(drawn_names(ids(strata), config_for(strata, ratio, total=t, max_repeat=1, seed=seed)))
        for t in (min(total, most), most)
    )
    assert few <= many


# --- strata ---

SIZES = st.dictionaries(st.text("abcd", max_size=3), st.integers(1, 10_000), min_size=1, max_size=9)


@FIXED
@given(SIZES, st.integers(0, 20_000))
@example({"a": 1, "b": 1, "c": 1}, 2)  # all tie
@example({"a": 999, "b": 1, "c": 1, "d": 1, "e": 1}, 500)
def test_shares_add_up_and_none_could_be_nearer_to_its_proportion(sizes, total):
    given_, whole = apportion(sizes, total), sum(sizes.values())
    assert sum(given_.values()) == total and min(given_.values()) >= 0
    assert all(given_[name] <= -(-total // whole) * size for name, size in sizes.items())
    # Webster: no item could move to another stratum that would have a better claim to it.
    last = max((2 * given_[name] - 1) / size for name, size in sizes.items())
    following = min((2 * given_[name] + 1) / size for name, size in sizes.items())
    assert last <= following * (1 + 1e-12)
    if len(sizes) <= 3:
        assert all(abs(given_[n] - total * size / whole) < 1 for n, size in sizes.items())


@FIXED
@given(SIZES, st.integers(0, 20_000), st.integers(1, 50))
def test_no_share_falls_when_the_total_grows(sizes, total, more):
    few, many = apportion(sizes, total), apportion(sizes, total + more)
    assert all(few[name] <= many[name] for name in sizes)


@FIXED
@given(STRATA, RATIOS, SEEDS)
def test_the_order_holds_of_each_stratum_what_its_share_is(strata, ratio, seed):
    items, config = ids(strata), config_for(strata, ratio, seed=seed, epochs=1)
    order = draw(pool_of(items, seed=seed), config)
    found = Counter(items[order.chosen[row]][1] for row in order.plan)
    for want, risky in ((order.unsafe, True), (order.clean, False)):
        own = {s.name: size for s, size in strata.items() if (s.level > 0) == risky}
        if own:
            shares = apportion(own, want)
            assert shares == {s.name: found[s] for s in strata if s.name in own}


# --- caps ---


@FIXED
@given(STRATA, CAPS, st.integers(0, 30), SEEDS)
def test_caps_hold_and_higher_ones_keep_what_lower_ones_keep(strata, caps, more, seed):
    pool = pool_of(ids(strata), seed=seed)
    low = pool.capped(caps)
    high = pool.capped({source: cap + more for source, cap in caps.items()})
    assert set(low.place.tolist()) <= set(high.place.tolist())
    left = Counter(pool.strata[number] for number in low.stratum.tolist())
    assert left == Counter(capped(strata, caps))
    for source in ("one", "two", "three/4"):
        there, stay = (
            sum(size for stratum, size in sizes.items() if stratum.source == source)
            for sizes in (strata, left)
        )
        assert stay == min(there, caps.get(source, there))


@FIXED
@given(STRATA, CAPS, RATIOS, SEEDS)
def test_what_is_told_of_an_order_adds_up(strata, caps, ratio, seed):
    whole = pool_of(ids(strata), seed=seed)
    config = config_for(capped(strata, caps), ratio, seed=seed, source_caps=caps)
    pool = whole.capped(caps)
    order = draw(pool, config)
    told = count_ratios(whole, pool, order, config)
    assert {(epoch.unsafe, epoch.clean) for epoch in told.epochs} == {(order.unsafe, order.clean)}
    for shares in (told.types, told.levels, told.sources):
        assert sum(share.there for share in shares) == sum(strata.values())
        assert sum(share.pool for share in shares) == len(pool.keys)
        assert sum(share.unsafe for share in shares) == order.unsafe
        assert sum(share.clean for share in shares) == order.clean
        asked = sum(share.asked for share in shares)
        assert abs(asked - order.unsafe - order.clean) < 0.01 * len(shares)
