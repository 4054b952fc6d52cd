"""Features of a root in a bucket, on this disk only as far as a budget goes."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.cache import room
from infra.files import Files
from infra.store import Store
from model.features import rows_of
from schemas.errors import ConfigError, StorageError
from tasks.encode import FeatureCache
from tasks.encode import shards as shards_of
from tasks.encode import stage as stages
from tasks.encode.stage import Stage
from tasks.encode.staged import Staged
from tests.s3_server import BUCKET, s3_server
from tests.shelf import keep_features
from tests.to_encode import PNGS, Run

IDS = sorted(PNGS)


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    with s3_server() as settings:
        yield settings


@pytest.fixture
def aws(bucket, monkeypatch, tmp_path) -> None:
    for name, value in {**bucket, "PSAVLM_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)


def on_disk(folder: str = "features") -> int:
    files = Path(os.environ["PSAVLM_CACHE"], folder).rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def in_stage(cache: FeatureCache) -> int:
    return os.fstat(cache.source.stage.file.fileno()).st_size


def test_a_plan_over_shards_that_do_not_fit_is_read_right_within_the_budget(
    aws, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards_of, "IMAGES_PER_SHARD", 2)
    run = Run(f"s3://{BUCKET}/{tmp_path.name}", "llava_next")
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", str(10**7))
    small = run.encoded(IDS[:4], batch=2)
    assert isinstance(FeatureCache(small).source, Staged) is False
    assert on_disk() >= small.counts["new_bytes"]  # what fits is copied whole
    expected = dict(zip(IDS[:4], FeatureCache(small).batch(IDS[:4]), strict=True))
    budget = 3 * max(rows_of(run.directly(name)).numel() * 4 for name in IDS)
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", str(budget))
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "other machine"))
    made = run.encoded(IDS, batch=2)
    assert on_disk() <= budget  # encode leaves no copies that do not fit
    cache = FeatureCache(made)
    draw = np.random.default_rng(0)
    plan = [IDS[i] for _ in range(3) for i in draw.permutation(len(IDS))]
    for first in range(0, len(plan), 4):
        cache.expect(lambda count, first=first: plan[first : first + count])
        asked = plan[first : first + 4]  # more than the stage has slots
        for name, found in zip(asked, cache.batch(asked), strict=True):
            assert torch.equal(rows_of(found), rows_of(run.directly(name)))
            if name in expected:
                assert torch.equal(rows_of(found), rows_of(expected[name]))
        assert in_stage(cache) <= budget and on_disk() <= budget
    assert cache.patches(IDS).tolist() == [len(rows_of(run.directly(name))) for name in IDS]


# --- the stage itself ---


@pytest.fixture
def stage(tmp_path, monkeypatch) -> Stage:
    """Ten slots of ten bytes."""
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    return Stage(lambda name: name.encode() * 5, size=10, budget=109)


def settled(stage: Stage) -> None:
    stage._ahead.submit(lambda: None).result()


def fewest(plan: list[str], slots: int) -> int:
    """Fetches of the best that one can do: who is needed last goes (Belady 1966)."""
    held: set[str] = set()
    count = 0
    for place, name in enumerate(plan):
        if name in held:
            continue
        count += 1
        if len(held) == slots:
            rest = plan[place:]
            held.remove(max(held, key=lambda one: rest.index(one) if one in rest else len(rest)))
        held.add(name)
    return count


@pytest.mark.parametrize(("look", "epochs"), [(stages.LOOK, "shuffled"), (12, "alike")])
def test_what_is_needed_last_makes_room_also_where_the_plan_is_not_seen_to_its_end(
    stage, monkeypatch, look, epochs
):
    monkeypatch.setattr(stages, "LOOK", look)
    draw = np.random.default_rng(1)
    plan = [f"{n:02d}" for _ in range(4) for n in draw.permutation(40)]
    plan = plan if epochs == "shuffled" else plan[:40] * 4
    for place, name in enumerate(plan):
        stage.expect(lambda count, place=place: plan[place : place + count])
        settled(stage)
        before = stage.fetched
        assert stage.take([name]) == [name.encode() * 5]
        assert stage.fetched == before  # it was here before it was asked for
    assert fewest(plan, 10) <= stage.fetched / 10 < 1.1 * fewest(plan, 10) < len(plan)
    assert os.fstat(stage.file.fileno()).st_size == 100
    stage.take([f"{n:02d}" for n in range(20)])  # more than there are slots
    assert os.fstat(stage.file.fileno()).st_size == 100


def test_an_error_ahead_of_the_reader_is_the_readers_and_ends_with_its_cause(tmp_path, monkeypatch):
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path))
    away = threading.Event()
    away.set()

    def fetch(name: str) -> bytes:
        if away.is_set():
            raise StorageError("the store is away")
        return name.encode()

    stage = Stage(fetch, size=4, budget=8)
    stage.expect(lambda count: ["ab", "cd"])
    settled(stage)
    with pytest.raises(StorageError, match="away"):
        stage.take(["ab"])
    away.clear()
    assert stage.take(["ab", "cd", "ef", "ab"]) == [b"ab", b"cd", b"ef", b"ab"]


def test_a_budget_for_not_even_one_image_or_that_is_no_number_is_told(stage, monkeypatch):
    with pytest.raises(ConfigError, match="9 bytes for features .* PSAVLM_STAGE_BYTES"):
        Stage(str.encode, size=10, budget=9)
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", "1e9")
    with pytest.raises(ConfigError, match="PSAVLM_STAGE_BYTES is '1e9'"):
        room(0)
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", "100")
    assert (room(0), room(30), room(200)) == (100, 70, 0)


def test_rows_of_one_length_are_read_and_a_shard_that_was_cut_short_is_told(
    aws, tmp_path, monkeypatch
):
    store = Store(f"s3://{BUCKET}/{tmp_path.name}")
    rows = np.random.default_rng(0).normal(size=(len(IDS), 4, 3)).astype(np.float32)
    made = keep_features(store, IDS, rows)
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "other machine"))
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", "300")
    cache = FeatureCache(made, readers=2)
    assert cache.source.stage.slots == 150 // (4 * 3 * 4)
    assert torch.equal(cache.batch(IDS), torch.from_numpy(rows))
    assert cache.patches(IDS[:2]).tolist() == [4, 4]
    files = Files.at(store.root)
    (path,) = (path for path in files.found() if path.endswith("features.npy"))
    files.put(path, (files.read(path) or b"")[:-1], fresh=False)
    cache.batch(IDS[:6])
    with pytest.raises(StorageError, match=f"ends before the features of image {IDS[-1]}"):
        cache.batch(IDS[-1:])
