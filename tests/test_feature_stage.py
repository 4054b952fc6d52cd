"""Features of a root in a bucket, on this disk only as far as a budget goes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.cache import room
from infra.files import Files
from infra.library import Library
from infra.store import Store
from model.features import rows_of
from schemas.artifact import Artifact
from schemas.errors import ConfigError, StorageError
from tasks.encode import FeatureCache
from tasks.encode import shards as shards_of
from tasks.encode import stage as stages
from tasks.encode.shards import SHARD_VERSION, SHARDS, Shards
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
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", "9")
    with pytest.raises(ConfigError, match="9 bytes for features .* PSAVLM_STAGE_BYTES"):
        Stage(str.encode, size=10, budget=9)
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", "1e9")
    with pytest.raises(ConfigError, match="PSAVLM_STAGE_BYTES is '1e9'"):
        room(0)
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", "100")
    assert (room(0), room(30), room(200)) == (100, 70, 0)


# --- one budget for all ---


def drawn(store: Store, seed: int) -> tuple[Artifact, torch.Tensor]:
    """Features of all images, [N, 4, 3], in a root of their own."""
    rows = np.random.default_rng(seed).normal(size=(len(IDS), 4, 3)).astype(np.float32)
    return keep_features(store, IDS, rows), torch.from_numpy(rows)


def test_the_features_of_all_encoders_and_roots_share_one_budget(aws, tmp_path, monkeypatch):
    stores = [Store(f"s3://{BUCKET}/{tmp_path.name}-{n}") for n in range(2)]
    (one, rows), (other, others) = (drawn(store, n) for n, store in enumerate(stores))
    whole = on_disk() // 2
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "other machine"))
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", str(int(1.5 * whole)))
    first, second = FeatureCache(one), FeatureCache(other)
    assert not isinstance(first.source, Staged) and on_disk() == whole
    assert torch.equal(first.batch(IDS), rows) and torch.equal(second.batch(IDS), others)
    assert 0 < in_stage(second) <= whole // 2
    # Encode, too: what it writes here counts with what lies here already.
    made = Library(stores[1], SHARDS, SHARD_VERSION, encoder="third")
    writer = Shards(made, "float32")
    writer.add(IDS, others)
    writer.flush()
    assert len(made.shards) == 1 and on_disk() == whole
    # Whose shards are here or on their way needs no room for them.
    assert not isinstance(FeatureCache(one).source, Staged)


HOLDS = """
import time
from tasks.encode import stage
held = stage.Stage(str.encode, size=10, budget=60)
print("ready", flush=True)
time.sleep(600)
"""


def test_what_a_living_process_has_claimed_is_left_to_it_and_given_back_when_it_is_killed(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path))
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", "100")
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        rest, last = (Stage(str.encode, size=10, budget=100) for _ in range(2))
        other.kill()
    assert rest.slots == 4
    assert last.slots == stages.AT_ONCE  # in memory, as nothing was left of the disk
    assert "memfd" in os.readlink(f"/proc/self/fd/{last.file.fileno()}")
    assert last.take(["ab", "cd"]) == [b"ab", b"cd"]
    assert Stage(str.encode, size=10, budget=100).slots == 6
    del rest, last
    assert Stage(str.encode, size=10, budget=100).slots == 10


def test_readers_that_begin_together_copy_a_shard_once(aws, tmp_path, monkeypatch):
    made, rows = drawn(Store(f"s3://{BUCKET}/{tmp_path.name}"), 0)
    whole = on_disk()
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "other machine"))
    monkeypatch.setenv("PSAVLM_STAGE_BYTES", str(whole))
    copied, download = [], Files.download

    def slowly(files: Files, path: str, *args, **kwargs) -> None:
        if path.startswith("features/"):
            copied.append(path)
            time.sleep(0.5)
        download(files, path, *args, **kwargs)

    monkeypatch.setattr(Files, "download", slowly)
    with ThreadPoolExecutor(3) as pool:
        readers = list(pool.map(FeatureCache, [made] * 3))
    assert len(copied) == 1 and on_disk() == whole
    assert all(torch.equal(reader.batch(IDS), rows) for reader in readers)


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
