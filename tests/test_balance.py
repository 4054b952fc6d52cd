"""Balance: the ratio holds in every batch, and which rows are taken depends on hashes alone."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.ahead import ahead
from infra.parts import read_parts
from infra.store import Store
from schemas.config import BalanceConfig
from schemas.errors import ConfigError, DataError
from schemas.samples import ROWS
from tasks.balance import (
    VERSION,
    apportion,
    balance,
    build_balanced,
    common_total,
    hash_keys,
    plan_order,
    read_ratios,
    sides,
)
from tasks.balance.order import by_key, first_by_key
from tasks.balance.pool import read_pool


def row(name: str, **changes) -> dict:
    own = hashlib.sha256(name.encode()).hexdigest()
    return {
        "sample_id": own,
        "image_ids": [],
        "source": "s",
        "source_key": name,
        "split": "train",
        "messages": [{"role": "user", "text": name}],
        "risk_type": "clean",
        "risk_level": 0,
        "supervises": "both",
        "language": "",
        "licence": "",
        "group_id": own,
        "slices": [("region", "north")],
        "extra": "{}",
        **changes,
    }


def rows(unsafe: int, clean: int, **changes) -> list[dict]:
    """Two risk types and two clean sources of unequal size."""
    made = []
    for i in range(unsafe):
        kind = "privacy" if i % 3 else "fairness"
        made.append(row(f"u{i}", risk_type=kind, risk_level=1 + i % 2, **changes))
    for i in range(clean):
        made.append(row(f"c{i}", source="large" if i % 4 else "small", **changes))
    return made


def labelled(folder: Path, content: list[dict], *, parts: int = 1) -> Path:
    (folder / "rows").mkdir(parents=True)
    content = sorted(content, key=lambda r: r["sample_id"])
    cuts = np.array_split(np.arange(len(content)), parts)
    for number, cut in enumerate(cuts):
        table = pa.Table.from_pylist([content[i] for i in cut], ROWS)
        pq.write_table(table, folder / "rows" / f"part-{number:05d}.parquet")
    return folder


def built(folder: Path, content: list[dict], *, parts: int = 1, **settings):
    """Counts, and the plan as a list of rows."""
    source = labelled(folder / "labelled", content, parts=parts)
    (folder / "out").mkdir()
    counts = build_balanced(folder / "out", BalanceConfig(**settings), source)
    plan = pq.read_table(folder / "out" / "plan.parquet")
    assert plan.schema == pa.schema([("row", pa.int32())])
    chosen = read_parts(folder / "out" / "rows", ROWS).to_pylist()
    assert [r["sample_id"] for r in chosen] == sorted(r["sample_id"] for r in chosen)
    assert (counts["rows"], counts["positions"]) == (len(chosen), plan.num_rows)
    return counts, [chosen[i] for i in plan["row"].to_pylist()]


# --- the order ---

RATIOS = [(0, 1), (1, 99), (1, 9), (27, 100), (1, 1), (73, 10), (9, 1), (99, 1)]  # clean : unsafe


@pytest.mark.parametrize(("clean", "unsafe"), RATIOS)
def test_every_batch_and_epoch_holds_the_ratio_to_within_one_item(clean, unsafe):
    risky = 397 * unsafe // (clean + unsafe) + 3
    total = risky + round(risky * clean / unsafe)
    side = np.arange(total) < risky
    keys = hash_keys(map(str, range(total)), seed=1)
    plan = plan_order(np.arange(total, dtype=np.int32), keys, unsafe=side, epochs=5)
    assert plan.dtype == np.int32
    epochs = plan.reshape(5, total)
    assert (np.sort(epochs, axis=1) == np.arange(total)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 5
    upto = np.concatenate([[0], np.cumsum(side[plan])])
    for batch in (1, 7, 32, 256):
        for world in (1, 2, 4):
            size = batch * world
            starts = np.arange(0, len(plan) - size + 1)  # any window, not the first batch's alone
            found = upto[starts + size] - upto[starts]
            assert (np.abs(found - size * risky / total) < 1).all()


# The exact-ratio table: batch sizes of one worker x workers, an epoch of a million rows.
MILLION, BATCHES, WORLDS = 1_000_000, (7, 32, 256), (1, 2, 4)


@pytest.fixture(scope="module")
def million_keys() -> np.ndarray:
    return hash_keys(map(str, range(MILLION)), seed=0)


@pytest.mark.parametrize(("clean", "unsafe"), RATIOS)
def test_a_million_rows_hold_the_ratio_in_every_global_batch_and_epoch(clean, unsafe, million_keys):
    risky, benign = sides(MILLION, clean / unsafe)
    share = unsafe / (clean + unsafe)  # as asked: the plan's own share may be off by rounding
    assert abs(risky - MILLION * share) <= 1 and benign == MILLION - risky
    rows = np.arange(MILLION, dtype=np.int32)
    plan = plan_order(rows, million_keys, unsafe=rows < risky, epochs=2)
    upto = np.concatenate([[0], np.cumsum(plan < risky)])
    epochs = np.diff(upto[[0, MILLION, 2 * MILLION]])
    assert epochs.tolist() == [risky, risky]
    for size in {batch * world for batch in BATCHES for world in WORLDS}:
        # Whole batches one after another, also those that lie across the end of an epoch.
        found = np.diff(upto[: len(plan) // size * size + 1 : size])
        assert np.abs(found - size * share).max() <= 1
        assert len(found) == 2 * MILLION // size


def test_the_order_follows_ids_and_seed_and_not_the_order_of_rows():
    names = [f"n{i}" for i in range(500)]
    unsafe = np.arange(500) % 3 == 0
    turn = np.random.default_rng(0).permutation(500)

    def order(index, seed):
        keys = hash_keys([names[i] for i in index], seed=seed)
        plan = plan_order(np.arange(500, dtype=np.int32), keys, unsafe=unsafe[index], epochs=2)
        return [names[index[i]] for i in plan]

    straight = order(np.arange(500), 0)
    assert order(turn, 0) == straight
    assert order(turn, 1) != straight


def test_neighbours_in_one_epoch_are_strangers_in_the_next():
    keys = hash_keys(map(str, range(2000)), seed=0)
    plan = plan_order(np.arange(2000, dtype=np.int32), keys, unsafe=np.ones(2000, bool), epochs=2)
    first, second = np.argsort(plan.reshape(2, 2000), axis=1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_keys_are_the_head_of_a_sha256():
    expected = int.from_bytes(hashlib.sha256(b"3:abc").digest()[:8], "big")
    assert hash_keys(["abc"], seed=3).tolist() == [expected]
    assert len(hash_keys([], seed=3)) == 0


def test_sorting_and_choosing_by_key_keep_the_order_of_equal_keys():
    random = np.random.default_rng(0)
    for most in (2, 50, 2**63):
        keys = random.integers(0, most, 3000).astype(np.uint64)
        expected = np.argsort(keys, kind="stable")
        assert (by_key(keys) == expected).all()
        for count in (0, 1, 700, 2999, 3000):
            assert set(first_by_key(keys, count)) == set(expected[:count])
    assert len(by_key(np.empty(0, np.uint64))) == len(first_by_key(np.empty(0, np.uint64), 0)) == 0


# --- the pool ---


def test_the_pool_is_what_a_loop_over_all_rows_finds(tmp_path):
    content = [
        row(
            f"r{i}",
            source=f"source {i % 331}",  # more strata than one byte counts
            split="test" if i < 40 or i % 11 == 0 else "train",
            image_ids=["a"] * (i % 3),
            risk_type="privacy" if i % 2 else "clean",
            risk_level=i % 2,
            supervises="concept" if i % 5 == 0 else "both",
        )
        for i in range(1500)
    ]
    (tmp_path / "rows").mkdir()
    cuts = (0, 40, 40, 700, 1500)  # a part of test rows alone, and one without any row
    for number, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False)):
        table = pa.Table.from_pylist(content[start:stop], ROWS)
        pq.write_table(table, tmp_path / "rows" / f"part-{number:05d}.parquet", row_group_size=99)
    for answered in (False, True):
        pool = read_pool(tmp_path, BalanceConfig(with_answers_only=answered, seed=4))
        places = [
            place
            for place, own in enumerate(content)
            if own["split"] == "train" and len(own["image_ids"]) <= 1
            if own["supervises"] == "both" or not answered
        ]
        own = [content[place] for place in places]
        assert pool.place.tolist() == places
        assert pool.keys.tolist() == hash_keys((r["sample_id"] for r in own), seed=4).tolist()
        assert [pool.strata[number] for number in pool.stratum] == [
            (r["risk_type"], r["risk_level"], r["source"]) for r in own
        ]
        assert len(pool.strata) == len(set(pool.strata)) > 256
        some = np.arange(0, len(places), 3)
        for number, group in pool.by_stratum(some):
            assert (group == some[pool.stratum[some] == number]).all() and len(group)
        assert sum(len(group) for _, group in pool.by_stratum(some)) == len(some)


def test_what_is_read_ahead_comes_in_order_and_an_error_in_its_turn():
    def read(number: int) -> int:
        if number == 5:
            raise DataError("five")
        return number * number

    assert list(ahead([], read)) == []
    assert list(ahead(range(4), read)) == [0, 1, 4, 9]
    found = []
    with pytest.raises(DataError, match="five"):
        for number in ahead(range(9), read):
            found.append(number)
    assert found == [0, 1, 4, 9, 16]


# --- shares ---


def test_shares_keep_their_proportion_and_never_shrink_as_the_total_grows():
    sizes = {"a": 701, "b": 53, "c": 11}
    whole, before = sum(sizes.values()), dict.fromkeys(sizes, 0)
    for total in range(1, 2 * whole + 1):
        given = apportion(sizes, total)
        assert sum(given.values()) == total
        for name, size in sizes.items():
            assert before[name] <= given[name] <= size * (1 + (total > whole))
            assert abs(given[name] - total * size / whole) < 1
        before = given


def test_a_larger_ratio_takes_the_items_of_a_smaller_one_and_more(tmp_path):
    content = rows(40, 400)
    taken = []
    for ratio in (0, 0.27, 1, 2.5, 7.3, 10):
        _, plan = built(tmp_path / str(ratio), content, clean_per_unsafe=ratio, epochs=1)
        taken.append({r["source_key"] for r in plan})
    assert [len(t) for t in taken] == [40, 51, 80, 140, 332, 440]
    assert all(small < large for small, large in zip(taken, taken[1:], strict=False))


def test_strata_keep_their_shares(tmp_path):
    _, plan = built(tmp_path, rows(40, 400), clean_per_unsafe=5, epochs=1)
    sources = [r["source"] for r in plan if r["risk_level"] == 0]
    assert (sources.count("large"), sources.count("small")) == (150, 50)
    assert sources[:150].count("small") > 20


# --- the step ---


def test_calibration_and_test_rows_are_never_in_the_training_order(tmp_path):
    content = rows(10, 10) + [
        row(f"{split}{i}", split=split, risk_level=i % 2, risk_type="privacy" if i % 2 else "clean")
        for split in ("calibration", "test")
        for i in range(9)
    ]
    counts, plan = built(tmp_path, content, epochs=3)
    assert {r["split"] for r in plan} == {"train"}
    assert counts == {"in": 20, "unsafe": 10, "clean": 10, "rows": 20, "positions": 60}


def test_a_row_keeps_everything_and_parts_do_not_matter(tmp_path):
    content = rows(9, 90)
    _, one = built(tmp_path / "one", content, clean_per_unsafe=3, epochs=2)
    _, many = built(tmp_path / "many", content, clean_per_unsafe=3, epochs=2, parts=7)
    assert one == many
    known = {r["source_key"]: r for r in content}
    assert all(r == known[r["source_key"]] for r in one)
    for name in ("plan.parquet", "rows/part-00000.parquet"):
        files = [pq.read_table(tmp_path / p / "out" / name) for p in ("one", "many")]
        assert files[0].equals(files[1])


def test_only_rows_with_an_answer_when_asked_for(tmp_path):
    content = rows(10, 10) + [
        row("x", supervises="concept"),
        row("y", supervises="concept", risk_type="privacy", risk_level=2),
    ]
    counts, plan = built(tmp_path / "a", content, with_answers_only=True, epochs=1)
    assert counts["in"] == len(plan) == 20
    assert {r["supervises"] for r in plan} == {"both"}
    counts, _ = built(tmp_path / "b", content, epochs=1)
    assert (counts["unsafe"], counts["clean"]) == (11, 11)


def test_a_fixed_total_is_split_by_the_ratio(tmp_path):
    settings = {"size": "fixed_total", "total": 30, "epochs": 1}
    counts, plan = built(tmp_path, rows(40, 40), clean_per_unsafe=2, **settings)
    assert (counts["unsafe"], counts["clean"], len(plan)) == (10, 20, 30)


def test_repeats_are_made_only_when_asked_for_and_evenly(tmp_path):
    _, plan = built(tmp_path, rows(20, 12), clean_per_unsafe=2, max_repeat=4, epochs=2)
    times = [[r["source_key"] for r in plan[:60]].count(f"c{i}") for i in range(12)]
    assert sorted(times) == [3] * 8 + [4] * 4
    clean = [r["source_key"] for r in plan[:60] if r["risk_level"] == 0]
    assert len(set(clean[:12])) < 12  # copies are shuffled, not one pass after another


@pytest.mark.parametrize(("clean", "unsafe"), RATIOS)
def test_the_ratio_holds_from_parquet_to_parquet(many, tmp_path, clean, unsafe):
    config = BalanceConfig(
        clean_per_unsafe=clean / unsafe, size="fixed_total", total=2_000, epochs=3
    )
    build_balanced(tmp_path, config, many)
    levels = np.asarray(read_parts(tmp_path / "rows", ROWS, columns=["risk_level"])["risk_level"])
    plan = pq.read_table(tmp_path / "plan.parquet")["row"].to_numpy()
    risky, benign = sides(2_000, clean / unsafe)
    told = read_ratios(tmp_path)
    assert {(e.unsafe, e.clean) for e in told.epochs} == {(risky, benign)}
    assert [e.epoch for e in told.epochs] == [1, 2, 3]
    for size in (7, 32, 256):
        found = (levels[plan] > 0)[: len(plan) // size * size].reshape(-1, size).sum(1)
        assert np.abs(found - size * unsafe / (clean + unsafe)).max() <= 1


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """2000 unsafe and 2000 clean rows in three parts."""
    return labelled(tmp_path_factory.mktemp("many") / "labelled", rows(2_000, 2_000), parts=3)


# --- caps ---


def sources(plan: list[dict]) -> dict[str, int]:
    """Different rows of each source."""
    names = [source for source, _ in {(r["source"], r["sample_id"]) for r in plan}]
    return {name: names.count(name) for name in sorted(set(names))}


def test_a_cap_leaves_at_most_so_many_items_of_a_source_and_nothing_of_others_changes(tmp_path):
    content = rows(40, 400)
    settings = {"clean_per_unsafe": 4, "epochs": 2}
    _, free = built(tmp_path / "free", content, **settings)
    assert sources(free) == {"large": 120, "s": 40, "small": 40}
    counts, plan = built(tmp_path / "capped", content, source_caps={"large": 70}, **settings)
    assert sources(plan) == {"large": 66, "s": 40, "small": 94}  # of 70 and of 100: 7 to 10
    assert counts == {"in": 440, "unsafe": 40, "clean": 160, "rows": 200, "positions": 400}
    _, wide = built(tmp_path / "wide", content, source_caps={"large": 301}, **settings)
    assert wide == free


def test_a_higher_cap_keeps_what_a_lower_one_keeps_and_zero_leaves_a_source_out(tmp_path):
    content, taken = rows(40, 400), []
    for cap in (0, 1, 10, 99, 300):
        settings = {"source_caps": {"large": cap}, "size": "fixed_total", "total": 1}
        settings |= {"clean_per_unsafe": 0}
        source = labelled(tmp_path / f"in{cap}", content)
        pool = read_pool(source, BalanceConfig(**settings)).capped({"large": cap})
        large = [pool.strata[number].source == "large" for number in pool.stratum]
        taken.append(set(pool.place[large].tolist()))
    assert [len(t) for t in taken] == [0, 1, 10, 99, 300]
    assert all(small < large for small, large in zip(taken, taken[1:], strict=False))


def test_a_capped_source_keeps_the_proportions_of_its_own_types_and_levels(tmp_path):
    content = rows(60, 0) + [row(f"c{i}", source="s") for i in range(60)]
    _, plan = built(tmp_path, content, source_caps={"s": 40}, epochs=1)
    kinds = [(r["risk_type"], r["risk_level"]) for r in plan]
    # 120 rows: a third of each stratum, 20 unsafe ones and the 20 clean ones that go with them.
    assert {kind: kinds.count(kind) for kind in kinds} == {
        ("fairness", 1): 3, ("fairness", 2): 3, ("privacy", 1): 7, ("privacy", 2): 7,
        ("clean", 0): 20,
    }  # fmt: skip


def test_with_a_cap_the_unsafe_rows_of_an_epoch_are_those_that_it_leaves(tmp_path):
    counts, _ = built(tmp_path, rows(40, 400), source_caps={"s": 10}, clean_per_unsafe=3)
    assert (counts["unsafe"], counts["clean"]) == (10, 30)


def test_copies_come_on_top_of_a_cap(tmp_path):
    _, plan = built(
        tmp_path, rows(20, 40), source_caps={"large": 5, "small": 5}, max_repeat=2, epochs=1
    )
    clean = [r["source_key"] for r in plan if r["risk_level"] == 0]
    assert (len(clean), len(set(clean))) == (20, 10)
    told = read_ratios(tmp_path / "out")
    assert (told.rows, told.most_uses, told.max_repeat) == (30, 2, 2)


def test_an_unknown_source_of_a_cap_names_the_known_and_one_of_test_rows_alone_is_fine(tmp_path):
    content = [*rows(9, 9), row("t", source="held-out", split="test")]
    with pytest.raises(
        ConfigError, match="'larg'.*did you mean 'large'.*held-out, large, s, small"
    ):
        built(tmp_path / "a", content, source_caps={"larg": 5})
    _, plan = built(tmp_path / "b", content, source_caps={"held-out": 5}, epochs=1)
    assert len(plan) == 18


def test_without_any_training_row_a_cap_changes_nothing_about_the_message(tmp_path):
    content = [row(f"t{i}", split="test") for i in range(3)]
    with pytest.raises(DataError, match="no unsafe row after source_caps in the training split"):
        built(tmp_path, content, source_caps={"s": 1})


def test_a_sweeps_common_total_knows_the_caps(tmp_path):
    store = Store(str(tmp_path / "store"))

    def fill(folder: Path) -> dict[str, int]:
        labelled(folder, rows(40, 400))
        return {}

    parent = store.artifact("validate", 1, config={}, build=fill)
    caps = {"large": 30, "small": 10}
    free, tight = (
        [BalanceConfig(clean_per_unsafe=r, source_caps=c) for r in (0.5, 4)] for c in ({}, caps)
    )
    assert common_total(free, parent, store=store) == 60
    total = common_total(tight, parent, store=store)
    assert total == 50  # 10 unsafe and the 40 clean ones that the caps leave
    for config in tight:
        whole = {"size": "fixed_total", "total": total}
        balance(config.model_validate({**dict(config), **whole}), parent, store=store)
        one_more = config.model_validate({**dict(config), **whole, "total": total + 1})
        if config.clean_per_unsafe == 4:
            with pytest.raises(DataError, match="has 40 after source_caps"):
                balance(one_more, parent, store=store)
    none = [BalanceConfig(clean_per_unsafe=4, source_caps={"s": 0})]
    with pytest.raises(DataError, match="400 clean rows before source_caps"):
        common_total(none, parent, store=store)


# --- asked and achieved ---


def test_ratios_tell_asked_and_achieved_per_epoch_type_level_and_source(tmp_path):
    _, plan = built(
        tmp_path, rows(40, 400), clean_per_unsafe=2.5, source_caps={"large": 75}, epochs=2
    )
    told = read_ratios(tmp_path / "out")
    assert (told.clean_per_unsafe, told.size, told.total) == (2.5, "keep_unsafe", None)
    assert told.source_caps == {"large": 75}
    assert [(e.epoch, e.unsafe, e.clean) for e in told.epochs] == [(1, 40, 100), (2, 40, 100)]
    clean = [s for s in told.sources if s.name in ("large", "small")]
    assert [(s.there, s.pool, s.asked) for s in clean] == [(300, 75, 42.86), (100, 100, 57.14)]
    for name, field in (("types", "risk_type"), ("levels", "risk_level"), ("sources", "source")):
        shares = {share.name: share for share in getattr(told, name)}
        assert sum(share.asked for share in shares.values()) == pytest.approx(140, abs=0.05)
        for epoch in (plan[:140], plan[140:]):
            assert shares.keys() == {str(r[field]) for r in epoch}
            for share in shares.values():
                own = [r["risk_level"] > 0 for r in epoch if str(r[field]) == share.name]
                assert (share.unsafe, share.clean) == (sum(own), len(own) - sum(own))
                # A sum of up to four strata, each of which is rounded.
                assert abs(share.asked - len(own)) < 2
    assert [share.name for share in told.types] == ["fairness", "privacy", "clean"]
    assert [share.name for share in told.levels] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("unsafe", "clean", "settings", "words"),
    [
        (0, 9, {}, "no unsafe row in the training split (9 clean ones)"),
        (0, 9, {"clean_per_unsafe": 0}, "no unsafe row"),
        (9, 0, {}, "no clean row in the training split (9 unsafe ones), and clean_per_unsafe = 1"),
        (9, 9, {"clean_per_unsafe": 5}, "45 clean items asked for"),
        (9, 9, {"clean_per_unsafe": 5}, "has 9 (smallest strata, type/level/source: clean/0/small"),
        (9, 9, {"clean_per_unsafe": 5, "max_repeat": 4}, "raise max_repeat to 5"),
        (9, 90, {"size": "fixed_total", "total": 40}, "20 unsafe items asked for"),
        (9, 90, {"source_caps": {"s": 0}}, "no unsafe row after source_caps in the training split"),
        (9, 90, {"source_caps": {"large": 3, "small": 3}}, "has 6 after source_caps (smallest"),
        (9, 90, {"size": "fixed_total", "total": 2, "clean_per_unsafe": 9}, "has no unsafe item"),
    ],
)
def test_too_few_items_are_an_error_that_names_what_is_there(
    tmp_path, unsafe, clean, settings, words
):
    with pytest.raises(DataError) as error:
        built(tmp_path, rows(unsafe, clean), **settings)
    assert words in str(error.value)


def test_only_unsafe_rows_are_enough_for_a_ratio_of_zero(tmp_path):
    counts, plan = built(tmp_path, rows(9, 0), clean_per_unsafe=0, epochs=1)
    assert (counts["unsafe"], counts["clean"], len(plan)) == (9, 0, 9)


def test_the_step_is_reused_and_its_settings_must_fit(tmp_path):
    store = Store(str(tmp_path / "store"))

    def fill(folder: Path) -> dict[str, int]:
        labelled(folder, rows(9, 9))
        return {"accepted": 18}

    parent = store.artifact("validate", 1, config={}, build=fill)
    first = balance(BalanceConfig(), parent, store=store)
    assert first.counts["positions"] == 8 * 18
    assert balance(BalanceConfig(), parent, store=store).reused
    assert not balance(BalanceConfig(seed=1), parent, store=store).reused
    for settings in ({"size": "fixed_total"}, {"total": 5}):
        with pytest.raises(ConfigError, match="give total with fixed_total"):
            balance(BalanceConfig(**settings), parent, store=store)


# If this changes, raise VERSION in tasks/balance/step.py: old artifacts are then not reused.
# Version 2 added ratios.json; the plan is version 1's.
GOLDEN = (2, "4c8e4bbcc0587ff654034073bfdc3efb7fe1d39a6487f078a20a04cce3a025d0")


def test_the_same_input_gives_the_same_plan_for_one_version(tmp_path):
    _, plan = built(tmp_path, rows(30, 40), clean_per_unsafe=1.5, max_repeat=2, epochs=3)
    content = json.dumps([r["source_key"] for r in plan])
    assert (VERSION, hashlib.sha256(content.encode()).hexdigest()) == GOLDEN
