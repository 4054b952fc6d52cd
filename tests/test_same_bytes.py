"""The same data give the same bytes: on any machine, in any order, after any death, beside others.

The runs are those of tests/snapshot_runs.py.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.verification import verify
from tasks.progress import progress
from tasks.references import REFERENCES
from tests.s3_server import BUCKET, s3_server

HOME = Path(__file__).parents[1]
# Of a whole process: what is read once, at its start.
ELSEWHERE = (
    {"PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8"},
    {"PYTHONHASHSEED": "2", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
)
STEPS = {"images", "ingest", "validate", "balance"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    with s3_server() as settings:
        yield settings


def begun(folder: Path, *words: str, **settings: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LC_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.snapshot_runs", str(folder), *words],
        cwd=HOME, env={**environment, **settings}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def told(process: subprocess.Popen[str]) -> dict[str, dict]:
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    return json.loads(out)


def the_same(runs: list[dict[str, str]]) -> dict[str, str]:
    """The files of all runs, which have one hash each."""
    first, *others = runs
    for other in others:
        differ = {name for name in first | other if first.get(name) != other.get(name)}
        assert not differ, sorted(differ)[:10]
    assert {name.partition("/")[0] for name in first} == STEPS
    assert "validate/docs/index.html" in first
    return first


def test_runs_in_other_circumstances_and_after_deaths_give_one_hash_a_file(tmp_path):
    processes = [
        begun(tmp_path / "0", "0", "--together", "kill", **ELSEWHERE[0]),
        begun(tmp_path / "1", "1", "2", "--deaths", **ELSEWHERE[1]),
    ]
    runs = {name: one for process in processes for name, one in told(process).items()}
    kill = runs.pop("kill")
    the_second_takes_over(kill, the_same([one["files"] for one in runs.values()]))


def one_works_and_both_succeed(both: dict, files: dict[str, str]) -> None:
    assert both["ended"] == [0, 0]
    first, second = (one["reused"] for one in both["runs"])
    assert {step: first[step] != second[step] for step in first} == dict.fromkeys(first, True)
    assert [one["files"] for one in both["runs"]] == [files, files]


def the_second_takes_over(kill: dict, files: dict[str, str]) -> None:
    assert kill["ended"] == [signal.SIGKILL, 0]
    (second,) = kill["runs"]
    assert second["reused"] == {"ingest": True, "validate": False, "balance": False}
    assert second["files"] == files
    assert kill["seconds"] < 30  # no wait for the lease of 60 s


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_runs_in_other_circumstances_and_after_deaths_give_one_hash_a_file(tmp_path):
    draw, runs = random.Random(0), []
    for number in range(10):
        place = {**ELSEWHERE[number % 2], "PYTHONHASHSEED": str(draw.randrange(2**32))}
        seeds = [str(2 * number), str(2 * number + 1)]
        runs += told(begun(tmp_path / seeds[0], *seeds, "--deaths", **place)).values()
    the_same([one["files"] for one in runs])
    assert len(runs) == 20
    assert sum(one["died"] for one in runs) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_two_runs_at_once_do_the_work_once(tmp_path, place, request):
    words, settings = ["0", "--together", "both", "kill"], {}
    if place == "bucket":
        words += ["--root", f"s3://{BUCKET}/together"]
        settings = request.getfixturevalue("bucket")
    runs = told(begun(tmp_path, *words, **settings))
    files = the_same([runs["0"]["files"]])
    one_works_and_both_succeed(runs["both"], files)
    the_second_takes_over(runs["kill"], files)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_commands_at_once_do_the_work_once_and_both_succeed(tmp_path):
    ended = [ended_with(process) for process in two_commands(tmp_path)]
    runs = [run["artifacts"].values() for run in ended]
    built = [one["uri"] for run in runs for one in run if not one["reused"]]
    assert len(built) == len(set(built))
    assert set(built) == {one["uri"] for run in runs for one in run}
    whole_and_alone(tmp_path / "store")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_where_one_of_two_commands_is_killed_at_work_the_other_takes_over(tmp_path):
    processes = two_commands(tmp_path)
    deadline = time.monotonic() + 300
    while not (leases := list((tmp_path / "store").glob("ingest/*/lease.json"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    victim = json.loads(leases[0].read_text())["pid"]
    os.kill(victim, signal.SIGKILL)
    (other,) = [process for process in processes if process.pid != victim]
    assert not ended_with(other)["artifacts"]["ingest"]["reused"]
    whole_and_alone(tmp_path / "store")


def two_commands(folder: Path) -> list[subprocess.Popen[str]]:
    """The same run twice on one root, up to balance, each from a folder of its own."""
    psavlm = str(Path(sys.executable).parent / "psavlm")
    words = ("run", "--until", "balance", "--root", str(folder / "store"), "--json")
    processes = []
    for name in ("first", "second"):
        home = folder / name
        home.mkdir()
        processes.append(
            subprocess.Popen([psavlm, *words], cwd=home, text=True, stdout=subprocess.PIPE)
        )
    return processes


def ended_with(process: subprocess.Popen[str]) -> dict:
    """What a command has printed."""
    out, _ = process.communicate()
    assert process.returncode == 0
    (line,) = out.splitlines()
    return json.loads(line)


def whole_and_alone(root: Path) -> None:
    """Every artifact is sound and was made once; nobody holds a lease."""
    told = verify(str(root), None, references=REFERENCES, progress=progress)
    assert (told.damaged, told.missing) == ((), ())
    for manifest in root.glob("*/*/manifest.json"):
        assert len(list((manifest.parent / "attempts").iterdir())) == 1
    assert not list(root.rglob("lease*"))
