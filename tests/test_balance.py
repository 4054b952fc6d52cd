"""Balance: the ratio holds in every batch, and which rows are taken depends on hashes alone."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.parts import read_parts
from infra.store import Store
from schemas.config import BalanceConfig
from schemas.errors import ConfigError, DataError
from schemas.samples import ROWS
from tasks.balance import VERSION, apportion, balance, build_balanced, hash_keys, plan_order


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
GOLDEN = (1, "1b92be58ba4177e2c7cd10edbe60a87845cdd7f18759db30349a1932265357c6")


def test_the_same_input_gives_the_same_plan_for_one_version(tmp_path):
    _, plan = built(tmp_path, rows(30, 40), clean_per_unsafe=1.5, max_repeat=2, epochs=3)
    content = json.dumps(plan, sort_keys=True)
    assert (VERSION, hashlib.sha256(content.encode()).hexdigest()) == GOLDEN
