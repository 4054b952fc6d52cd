"""Leases where clocks differ, machines sleep and two write; on disk and in a bucket."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra import lease
from infra.files import Files
from infra.fingerprint import fingerprint
from infra.store import Store
from tests.s3_server import BUCKET, s3_server

NAME = fingerprint("step", 1, config={})
FOLDER = f"step/{NAME}"
HOUR = 3600.0


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3_server() as settings:
        yield settings


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(lease, "POLL_S", 0.02)
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    for name, value in request.getfixturevalue("bucket").items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{BUCKET}/{tmp_path.name}")


def elsewhere(expires: float) -> lease.Lease:
    """A holder on another machine, by whose clock the lease ends at a time."""
    fields = {**lease.Lease.mine().model_dump(), "host": "elsewhere", "expires": expires}
    return lease.Lease.model_validate(fields)


def write(store: Store, path: str, held: lease.Lease) -> None:
    Files.at(store.root).put(f"{FOLDER}/{path}", held.model_dump_json().encode(), fresh=False)


def left(store: Store) -> list[str]:
    return [path for path in Files.at(store.root).found() if "lease" in path]


def build(folder: Path) -> dict[str, int]:
    (folder / "by").write_text(threading.current_thread().name)
    return {}


def begun(store: Store, work: Callable[[Path], dict[str, int]]) -> tuple[threading.Thread, list]:
    """Another thread that wants the artifact, and what it has got."""
    got: list = []
    asking = lambda: got.append(store.artifact("step", 1, config={}, build=work))  # noqa: E731
    thread = threading.Thread(target=asking, name="the other")
    thread.start()
    return thread, got


def test_a_holder_whose_clock_is_an_hour_late_keeps_its_lease_while_it_renews(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.6)  # silent for 1.2 s: late
    holder = elsewhere(time.time() - HOUR)
    write(store, "lease.json", holder)
    thread, got = begun(store, build)
    for beat in range(15):
        later = {"expires": holder.expires + beat}
        write(store, "lease.json", holder.model_copy(update=later))
        assert not got
        time.sleep(0.1)
    thread.join()
    assert not got[0].reused and left(store) == []


def test_a_holder_whose_clock_is_a_day_ahead_is_not_waited_for_a_day(store, monkeypatch):
    monkeypatch.setattr(lease, "TTL_S", 0.5)
    write(store, "lease.json", elsewhere(time.time() + 24 * HOUR))
    began = time.monotonic()
    assert not store.artifact("step", 1, config={}, build=build).reused
    assert 0.5 <= time.monotonic() - began < 20
    assert left(store) == []


@pytest.mark.parametrize("first", ["sleeper", "other"])
def test_a_machine_that_slept_meets_who_took_over_and_one_of_them_counts(store, monkeypatch, first):
    """Both build; whoever ends first counts, and nothing of the other stays."""
    files, awake, may_end = Files.at(store.root), threading.Event(), threading.Event()

    def asleep(folder: Path) -> dict[str, int]:
        mine = json.loads(files.read(f"{FOLDER}/lease.json"))
        write(store, "lease.json", lease.Lease(**{**mine, "host": "elsewhere", "expires": 0.0}))
        monkeypatch.setattr(lease, "BEAT_S", 0.05)  # its own next beat is 15 s away
        other.append(begun(store, slow if first == "sleeper" else build))
        (folder / "by").write_text("sleeper")
        assert awake.wait(20) if first == "sleeper" else not other[0][0].join(20)
        return {}

    def slow(folder: Path) -> dict[str, int]:
        awake.set()
        assert may_end.wait(20)
        return build(folder)

    other: list = []
    slept = store.artifact("step", 1, config={}, build=asleep)
    may_end.set()
    thread, got = other[0]
    thread.join(20)
    assert (slept.reused, got[0].reused) == (first == "other", first == "sleeper")
    winner = "sleeper" if first == "sleeper" else "the other"
    assert (store.local(slept) / "by").read_text() == winner
    attempt = store.manifest(slept).attempt
    assert files.sizes(FOLDER).keys() == {"manifest.json", f"attempts/{attempt}/by"}


def test_who_lost_the_lease_says_so_and_does_not_renew_it(store, monkeypatch, caplog):
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    files = Files.at(store.root)
    with lease.leased(files, FOLDER) as (mine, _):
        write(store, f"lease-{mine.owner}.json", elsewhere(time.time() + HOUR))
        deadline = time.monotonic() + 10
        while "another process has taken over" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        before = files.read(f"{FOLDER}/lease.json")
        time.sleep(0.3)
        assert files.read(f"{FOLDER}/lease.json") == before
    # The chain is the other one's to remove.
    assert {path.rpartition("/")[2] for path in left(store)} == {
        "lease.json",
        f"lease-{mine.owner}.json",
    }
