"""Hostile files cost a row or an error, never a crash, and good ones are all taken."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.parts import read_parts
from infra.store import Store
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import DataError
from schemas.samples import REJECTS
from tasks.ingest import ingest
from tasks.sources.table import read
from tests import (
    hostile_csv,
    hostile_frames,
    hostile_headers,
    hostile_images,
    hostile_json,
    hostile_names,
    hostile_pages,
    hostile_parquet,
    hostile_tars,
)
from tests.hostile import ACCEPTED, ERROR, KINDS, LIMITS, Case, cases
from tests.hostile_good import good_sources
from tests.memory import forget_peak, peak

MADE_BY = (
    hostile_csv,
    hostile_frames,
    hostile_headers,
    hostile_images,
    hostile_json,
    hostile_names,
    hostile_pages,
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


def wrong(made: Iterable[Case], stores: Path) -> list[str]:
    """The cases that ended otherwise than they must."""
    found = [(case, outcome(case, stores)) for case in made]
    return [f"{c.kind} {c.number}: {c.expected} -> {o}" for c, o in found if o != c.expected]


@pytest.mark.slow
def test_a_thousand_hostile_files_end_as_they_must(tmp_path):
    assert len(KINDS) * 12 >= 1_000
    assert wrong(cases(tmp_path / "in", each=12), tmp_path / "stores") == []


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


def test_a_file_that_goes_away_or_is_cut_while_it_is_read_is_named(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"question": "q", "type": "clean"}\n')
    items = read(SourceConfig(format="table", uri=f"{tmp_path}/*.jsonl"), max_bytes=1)
    next(items)
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(DataError, match=r"b\.jsonl' cannot be read: No such file"):
        list(items)
    rows = {
        "question": ["a long text" * 90 + str(n) for n in range(9_000)],
        "type": ["clean"] * 9_000,
    }
    pq.write_table(pa.table(rows), tmp_path / "c.parquet", row_group_size=3_000)
    items = read(SourceConfig(format="table", uri=f"{tmp_path}/c.parquet"), max_bytes=1)
    next(items)
    os.truncate(tmp_path / "c.parquet", 9_000)
    with pytest.raises(DataError, match=r"c\.parquet' is not readable Parquet"):
        list(items)


def test_a_file_that_may_not_be_read_is_named():
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path, me = Path(folder) / "a.jsonl", os.geteuid()
        path.write_text('{"question": "q", "type": "clean"}\n')
        path.chmod(0)
        if me == 0:
            os.seteuid(65_534)  # root may read everything, nobody may not
        try:
            with pytest.raises(DataError, match=r"a\.jsonl' cannot be read: Permission denied"):
                list(read(SourceConfig(format="table", uri=str(path)), max_bytes=1))
        finally:
            os.seteuid(me)


@pytest.mark.slow
def test_ten_thousand_files_behind_one_pattern_are_all_read(tmp_path):
    for number in range(10_000):
        (tmp_path / f"{number}.jsonl").write_text(f'{{"question": "q{number}", "type": "clean"}}\n')
    source = SourceConfig(format="table", uri=f"{tmp_path}/*.jsonl", name="many")
    samples = ingest(IngestConfig(sources=(source,)), store=Store(str(tmp_path / "store")))
    assert samples.counts["accepted"] == samples.counts["in"] == 10_000


def test_a_file_of_every_kind_ends_as_it_must_and_none_fills_the_memory(tmp_path):
    assert len(KINDS) >= 100
    assert all(KINDS.keys() & vars(file).keys() for file in MADE_BY)
    code = "import sys; from tests.test_hostile import weigh; print(weigh(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["grown"] < 600


def weigh(folder: str) -> str:
    """The cases that ended otherwise, and megabytes that the process grew by while it read them."""
    made = list(cases(Path(folder) / "in", each=1))
    before = forget_peak()
    found = wrong(made, Path(folder) / "stores")
    return json.dumps({"wrong": found, "grown": peak() - before})
