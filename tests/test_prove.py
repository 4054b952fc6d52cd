"""The longer proofs, run by `make prove`: both worlds in full, and a run that must fail."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.record import record
from tests.tiny_bars import missed

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(1800)]
PSAVLM = str(Path(sys.executable).parent / "psavlm")


def run(preset: str, root: str, cwd: Path) -> tuple[dict, float]:
    """A whole run's reports, and how many seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        [PSAVLM, "run", "--preset", preset, "--root", root, "--json"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)["reports"], time.monotonic() - began


def numbers(reports: dict) -> dict[str, float]:
    """Every metric with its interval and n, flat."""
    return {
        f"{arm}.{name}.{key}": round(metric[key], 4)
        for arm, report in reports.items()
        for name, metric in report["metrics"].items()
        for key in ("value", "low", "high", "n")
    }


def test_the_easy_world(tiny_root: str, tmp_path: Path) -> None:
    reports, seconds = run("tiny", tiny_root, tmp_path)
    _, again = run("tiny", tiny_root, tmp_path)
    record("tiny", {"seconds": round(seconds, 1), "again": round(again, 1), **numbers(reports)})
    assert missed(reports) == []


def test_the_hard_world(tiny_root: str, tmp_path: Path) -> None:
    reports, seconds = run("tiny-hard", tiny_root, tmp_path)
    record("tiny-hard", {"seconds": round(seconds, 1), **numbers(reports)})
    base, last = (reports[arm]["metrics"]["risky_obeyed"] for arm in ("base", "stage2"))
    assert last["high"] < base["low"]


def test_shuffled_labels_fail_the_bars_of_the_easy_world(tiny_root: str, tmp_path: Path) -> None:
    preset = tmp_path / "shuffled.toml"
    preset.write_text('extends = "tiny"\n[world]\nshuffle_labels = true\n')
    reports, _ = run(str(preset), tiny_root, tmp_path)
    record("tiny-shuffled", numbers(reports))
    assert any("stage2" in miss for miss in missed(reports))
