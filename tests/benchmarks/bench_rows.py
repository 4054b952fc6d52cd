"""How fast and in how much memory rows without images are ingested: a million, or ROWS.

In a process of its own, with time and peak memory (ru_maxrss); the rows are of some 500 bytes.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from shutil import rmtree

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from infra.parts import parts
from infra.store import Store
from schemas.config import IngestConfig, SourceConfig
from tests.benchmarks.record import record

ROWS = int(os.environ.get("ROWS", 1_000_000))
AT_ONCE = 100_000
WORDS = [f"{letter}{number}" for letter in "abcdefghij" for number in range(100)]
TYPES = ["clean", "clean", "privacy", "misleading"]
MIB = 1024  # ru_maxrss counts KiB


@pytest.mark.timeout(3600)
def test_time_and_memory_of_a_million_rows_without_images(tmp_path: Path) -> None:
    try:
        _generate(tmp_path / "in.parquet")
        # With the parent's memory small: a child begins with the parent's peak as its own.
        command = [sys.executable, "-m", "tests.benchmarks.bench_rows", str(tmp_path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout)
    finally:
        rmtree(tmp_path)
    rate = round(ROWS / told["seconds"])
    record("rows", {"rows": ROWS, "cpus": os.cpu_count(), **told, "rows_per_second": rate})


def _generate(path: Path) -> None:
    draw, words = np.random.default_rng(0), np.array(WORDS)
    text = pa.array([" ".join(draw.choice(words, 60)) for _ in range(20_000)])
    level = pa.array([None, None, "1", "3"])
    columns = {"question": text.type, "answer": text.type, "type": text.type, "level": level.type}
    with pq.ParquetWriter(path, pa.schema(columns)) as writer:
        for start in range(0, ROWS, AT_ONCE):
            asked, said = draw.integers(0, len(text), (2, min(AT_ONCE, ROWS - start)))
            kind = pa.array(np.arange(start, start + len(asked)) % len(TYPES))
            number = pa.array(np.arange(start, start + len(asked))).cast(pa.string())
            question = pc.binary_join_element_wise(number, text.take(asked), " ")
            drawn = [question, text.take(said), pa.array(TYPES).take(kind), level.take(kind)]
            writer.write_table(pa.table(drawn, names=list(columns)))


def _ingest(folder: Path) -> None:
    from tasks.ingest import ingest

    source = SourceConfig(format="table", uri=str(folder / "in.parquet"), name="made")
    store, config = Store(str(folder / "store")), IngestConfig(sources=(source,))
    began = time.perf_counter()
    samples = ingest(config, store=store)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    assert samples.counts["accepted"] == ROWS
    _check_order(store.local(samples) / "rows")
    print(json.dumps({"seconds": round(seconds, 2), "peak_mib": round(peak)}))


def _check_order(rows: Path) -> None:
    last = ""
    for part in parts(rows):
        ids = pq.read_table(part, columns=["sample_id"])["sample_id"].to_pylist()
        assert ids == sorted(ids)
        assert last < ids[0]
        last = ids[-1]


if __name__ == "__main__":
    _ingest(Path(sys.argv[1]))
