"""The deployed pipeline from a clean clone: installed and run, run again, swept over ratios."""

import os
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from infra.servers.ask import ask
from infra.servers.state import addresses
from tests.benchmarks.record import record
from tests.desk import OURS, own_ports

REPOSITORY = Path(__file__).parent.parent.parent
HARD = "PRESET=tiny-hard"


@pytest.mark.timeout(3600)
def test_time_of_the_deployed_pipeline_and_of_a_sweep(tmp_path: Path) -> None:
    clone = tmp_path / "psavlm"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    (clone / ".env").write_text(own_ports())
    try:
        numbers = {
            "first_seconds": _seconds(clone, "pipeline"),
            "again_seconds": _seconds(clone, "pipeline"),
            "warm_hard_seconds": _seconds(clone, "pipeline", HARD),
            "sweep_seconds": _seconds(clone, "sweep"),
            **_points(clone),
        }
    finally:
        subprocess.run(["make", "down"], cwd=clone, check=True)
    record("pipeline", {name: round(value, 1) for name, value in numbers.items()})


def _seconds(clone: Path, *words: str) -> float:
    began = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    make = ["make", *words]
    subprocess.run(make, cwd=clone, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def _points(clone: Path) -> dict[str, float]:
    """How long the points of the sweep took: the first, and the median of the others."""
    api = f"{addresses(clone)['prefect']}/api"
    body = {"task_runs": {"name": {"like_": "ratio "}}, "sort": "EXPECTED_START_TIME_ASC"}
    times = [run["total_run_time"] for run in ask(f"{api}/task_runs/filter", body)]
    return {
        "points": len(times),
        "first_point_seconds": times[0],
        "further_point_seconds": statistics.median(times[1:]),
    }
