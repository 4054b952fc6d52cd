"""A process may die anywhere: the same command, run again, ends the same; nobody sees the half.

The points are found and tried by tests/crash_points.py: here some; by `make prove` all, those of
the data steps, of the gate and of buckets too. `psavlm gc` comes after the second run, or before.
"""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from infra.files import Files
from tests.benchmarks.record import record
from tests.crash_data import SCENARIOS as DATA
from tests.crash_gate import SCENARIOS as GATE
from tests.crash_scenario import ORDERS
from tests.s3_server import BUCKET, s3_server

HOME = Path(__file__).parents[1]
SOME = ("artifact=8", "recovery=3", "rebuild=3", "library=4", "decisions=4", "clearing=4")
IN_BUCKET = ("artifact", "recovery", "rebuild", "library", "clearing")
# A dead process of this machine is known by its number; its lease is good for 60 s.
LONGEST_S = 30


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    with s3_server() as settings:
        yield settings


def tried(folder: Path, *words: str, **settings: str) -> dict[str, dict]:
    """What the tool tells of some scenarios."""
    # Not the bucket of whoever runs this.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash_points", str(folder), *words],
        cwd=HOME, env={**environment, **settings}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def check(told: dict[str, dict]) -> None:
    for name, one in told.items():
        assert one["faults"] == [], f"{name}: {one['faults'][:3]}"
        assert one["slowest"] < LONGEST_S, name
        # Threads do not always do as many acts: few may be spared.
        assert one["survived"] <= one["trials"] // 10, name


def test_a_process_that_dies_at_some_points_leaves_nothing_half_and_is_run_again(tmp_path):
    check(tried(tmp_path, *SOME))


@pytest.mark.parametrize("fresh", [True, False])
def test_what_is_put_is_on_the_disk_under_its_name_before_it_is_told(tmp_path, monkeypatch, fresh):
    """A power cut, other than a death, takes along what has not been flushed."""
    acts, fsync, link, rename = [], os.fsync, os.link, os.replace

    def flushed(file: int) -> None:
        acts.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    def named(act: Callable[..., None], *paths: object, **options: object) -> None:
        acts.append("name")
        act(*paths, **options)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "link", partial(named, link))
    monkeypatch.setattr(os, "replace", partial(named, rename))
    assert Files.at(str(tmp_path)).put("a/b", b"x", fresh=fresh)
    assert acts == ["file", "name", "folder"]


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("name", [*DATA, *GATE])
def test_every_point_of_death(tmp_path, name):
    # MLflow makes its tables in hundreds of acts, which take seconds, in a file of another name.
    some = "registry=12" if name == "registry" else name
    # Half of all acts are Great Expectations' pages: each point of these steps in one order.
    orders = () if name == "snapshot" else ("--orders", *ORDERS)
    told = tried(tmp_path, some, *orders)
    check(told)
    note(f"crash-{name}", told[name])


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("name", IN_BUCKET)
def test_every_point_of_death_with_a_bucket(tmp_path, bucket, name):
    told = tried(tmp_path, name, "--bucket", f"s3://{BUCKET}/all", **bucket)
    check(told)
    note(f"crash-{name}-s3", told[name])


def note(name: str, told: dict) -> None:
    record(name, {"acts": told["acts"], "trials": told["trials"], "slowest": told["slowest"]})
