"""From a clean clone to the finished first run, installation included, and the run after it."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.benchmarks.record import record

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.mark.timeout(1800)
def test_time_from_a_clean_clone_to_the_first_result(tmp_path: Path) -> None:
    clone = tmp_path / "psavlm"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    first, again = (_seconds(clone) for _ in range(2))
    record("first-run", {"first_seconds": round(first, 1), "again_seconds": round(again, 1)})


def _seconds(clone: Path) -> float:
    began = time.monotonic()
    subprocess.run(["make", "run"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began
