"""Hostile files cost a row or an error, never a crash, and good ones are all taken."""

import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import pytest

from infra.parts import read_parts
from infra.store import Store
from schemas.config import IngestConfig
from schemas.errors import DataError
from schemas.samples import REJECTS
from tasks.ingest import ingest
from tests import (
    hostile_csv,
    hostile_images,
    hostile_json,
    hostile_names,
    hostile_parquet,
    hostile_tars,
)
from tests.hostile import ACCEPTED, ERROR, KINDS, LIMITS, Case, cases
from tests.hostile_good import good_sources

MADE_BY = (
    hostile_csv,
    hostile_images,
    hostile_json,
    hostile_names,
    hostile_parquet,
    hostile_tars,
)


def outcome(case: Case, root: Path) -> str:
    """What ingest made of a case: accepted, the reason of its only reject, or an error."""
    store = Store(str(root / f"{case.kind}-{case.number}"))
    config = IngestConfig(sources=(case.source,), **LIMITS)
    try:
        samples = ingest(config, store=store)
    except DataError as error:
        assert error.exit_code == 2
        assert "\n" not in str(error)
        assert len(str(error)) < 5_000
        assert not list(Path(store.root).rglob("rows"))
        return ERROR
    rejects = read_parts(store.local(samples) / "rejects", REJECTS).to_pylist()
    assert samples.counts["in"] == samples.counts["accepted"] + len(rejects)
    if not rejects:
        return ACCEPTED
    assert samples.counts["accepted"] >= 1, rejects
    (reason,) = {reject["reason"] for reject in rejects}
    return reason


def wrong(folder: Path, *, each: int) -> list[str]:
    """The cases that ended otherwise than they must."""
    found = [(case, outcome(case, folder / "stores")) for case in cases(folder / "in", each=each)]
    return [f"{c.kind} {c.number}: {c.expected} -> {o}" for c, o in found if o != c.expected]


def test_every_hostile_file_ends_as_it_must(tmp_path):
    assert len(KINDS) * 3 >= 200
    assert all(KINDS.keys() & vars(file).keys() for file in MADE_BY)
    assert wrong(tmp_path, each=3) == []


@pytest.mark.slow
def test_a_thousand_hostile_files_end_as_they_must(tmp_path):
    assert wrong(tmp_path, each=12) == []


def taken(folder: Path, *, count: int) -> None:
    """Good images of all formats and modes, by path and by bytes, in all four kinds of source."""
    sources = good_sources(folder / "in", count=count)
    store = Store(str(folder / "store"))
    samples = ingest(IngestConfig(sources=sources), store=store)
    found = read_parts(store.local(samples) / "rejects", REJECTS).to_pylist()
    assert found == []
    assert samples.counts["accepted"] == samples.counts["in"] == count
    assert samples.counts["images"] == count


def test_good_files_are_all_taken(tmp_path):
    taken(tmp_path, count=400)


@pytest.mark.slow
def test_ten_thousand_good_files_are_all_taken(tmp_path):
    taken(tmp_path, count=10_000)


def test_hostile_files_do_not_fill_the_memory(tmp_path):
    code = "import sys; from tests.test_hostile import peak; print(peak(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert float(done.stdout) < 400


def peak(folder: str) -> float:
    """Megabytes that the process grew by while it read one case of every kind."""
    made = list(cases(Path(folder) / "in", each=1))
    before = getrusage(RUSAGE_SELF).ru_maxrss
    for case in made:
        outcome(case, Path(folder) / "stores")
    return (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1_024
