"""One million of ten million rows by every contender, Parquet in and plan out, side by side.

polars orders by its own hash, pandas by our sha256: there the rows must be the same, and not only
as many of each type, level and source. Ten million rows take 5 GB of disk while it runs;
ROWS=1000000 in the environment makes a tenth.
"""

import os
import sys
from pathlib import Path
from shutil import rmtree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.config import BalanceConfig
from tests.benchmarks.contend import contend, machine, measured, python, warm
from tests.benchmarks.record import record

ROWS = int(os.environ.get("ROWS", 10_000_000))
CONFIG = BalanceConfig(size="fixed_total", total=ROWS // 10, clean_per_unsafe=1)
STRATUM = ["risk_type", "risk_level", "source"]
PEERS = ("polars", "pandas")


@pytest.mark.timeout(1800)
def test_time_and_memory_of_a_tenth_of_ten_million_rows(tmp_path: Path) -> None:
    labelled, numbers = tmp_path / "labelled", {"rows": ROWS, "epochs": CONFIG.epochs, **machine()}
    try:
        python("tests.benchmarks.snapshots", labelled, ROWS)
        warm(labelled)
        seconds = {}
        for name in ("ours", *PEERS):
            (tmp_path / name).mkdir()
            own = measured("tests.benchmarks.bench_balance_scale", name, labelled, tmp_path / name)
            numbers |= own.numbers(name)
            seconds[name] = own.seconds
        for name in ("ours", *PEERS):
            _check_plan(tmp_path / name)
            assert _strata(tmp_path / name) == _strata(tmp_path / "ours"), name
        assert _ids(tmp_path / "pandas").equals(_ids(tmp_path / "ours"))
    finally:
        rmtree(tmp_path)
    times = {f"times_{peer}": round(seconds["ours"] / seconds[peer], 3) for peer in PEERS}
    record("balance-scale", numbers | times)


def _strata(out: Path) -> list[dict]:
    counted = (
        pq.read_table(_rows(out), columns=STRATUM).group_by(STRATUM).aggregate([([], "count_all")])
    )
    return counted.sort_by([(name, "ascending") for name in STRATUM]).to_pylist()


def _ids(out: Path) -> pa.ChunkedArray:
    return pq.read_table(_rows(out), columns=["sample_id"])["sample_id"].cast(pa.string())


def _check_plan(out: Path) -> None:
    """Each epoch holds every row once, and each window of 32 its share of unsafe ones."""
    plan = pq.read_table(out / "plan.parquet")["row"].to_numpy().reshape(CONFIG.epochs, -1)
    unsafe = pq.read_table(_rows(out), columns=["risk_level"])["risk_level"].to_numpy() > 0
    assert plan.shape[1] == len(unsafe) == CONFIG.total
    for epoch in plan:
        assert (np.sort(epoch) == np.arange(len(epoch))).all()
        windows = unsafe[epoch][: len(epoch) // 32 * 32].reshape(-1, 32).sum(1)
        assert np.abs(windows - 32 * unsafe.mean()).max() <= 1
    assert len({epoch[:1000].tobytes() for epoch in plan}) == CONFIG.epochs


def _rows(out: Path) -> Path:
    return out / "rows" / "part-00000.parquet"


def _builder(name: str):
    if name == "ours":
        from tasks.balance import build_balanced

        return build_balanced
    from tests.benchmarks import balance_peers

    return {"polars": balance_peers.by_polars, "pandas": balance_peers.by_pandas}[name]


if __name__ == "__main__":
    build, source, out = _builder(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    contend(lambda: build(out, CONFIG, source))
