"""The longer proofs, run by `make prove`: both worlds in full, and a run that must fail."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.record import record
from tests.s3_server import BUCKET, s3_server
from tests.shelf import LIBRARIES
from tests.tiny_bars import missed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# Few steps: what is proved here is the storage, not the result.
SHORT = """
extends = "tiny"
[stage1]
checkpoint_every = 5
[stage1.parts.concept]
steps = 10
[stage1.parts.tokens]
steps = 5
[stage2.parts.lora]
steps = 5
"""
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


def test_both_stages_and_an_answer_on_s3(tiny_root: str, tmp_path: Path) -> None:
    """The same command with its root in a bucket: checkpoints, artifacts, evaluation, answer."""
    preset = tmp_path / "short.toml"
    preset.write_text(SHORT)
    with s3_server() as settings:
        environment = {**os.environ, **settings, "PSAVLM_CACHE": str(tmp_path / "cache")}
        _copy_to_bucket(tiny_root, settings)
        where = ["--preset", str(preset), "--root", f"s3://{BUCKET}/team", "--json"]
        done = _json([PSAVLM, "evaluate", *where], tmp_path, environment)
        assert done["uri"].startswith(f"s3://{BUCKET}/team/evaluate/")
        model = _json([PSAVLM, "stage2", *where], tmp_path, environment)
        assert model["reused"]
        image = next((Path(tiny_root) / "tiny_world").rglob("vlguard/images/test-00000.png"))
        ask = ["answer", "--artifact", model["uri"], "--image", str(image), "--json", "what ?"]
        assert _json([PSAVLM, *ask], tmp_path, environment)["answer"]


def _json(command: list[str], cwd: Path, environment: dict[str, str]) -> dict:
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def _copy_to_bucket(tiny_root: str, settings: dict[str, str]) -> None:
    from s3fs import S3FileSystem

    bucket = S3FileSystem(
        key=settings["AWS_ACCESS_KEY_ID"],
        secret=settings["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=settings["AWS_ENDPOINT_URL"],
        skip_instance_cache=True,
    )
    steps = ("tiny_world", "ingest", "validate", "balance", "base_model", "encode")
    for step in (*LIBRARIES, *steps):
        bucket.put(f"{tiny_root}/{step}", f"{BUCKET}/team/{step}", recursive=True)


def test_shuffled_labels_fail_the_bars_of_the_easy_world(tiny_root: str, tmp_path: Path) -> None:
    preset = tmp_path / "shuffled.toml"
    preset.write_text('extends = "tiny"\n[world]\nshuffle_labels = true\n')
    reports, _ = run(str(preset), tiny_root, tmp_path)
    record("tiny-shuffled", numbers(reports))
    assert any("stage2" in miss for miss in missed(reports))
