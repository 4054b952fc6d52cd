"""What a Ray Train fit costs beside its steps, and the least that it could: a worker's imports."""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from flows.line import pipeline, plainly, up_to
from infra import ray_cluster
from infra.store import Store
from schemas.presets import Parameters, resolve
from tests.benchmarks.record import record
from tests.drivers import linked

FITS = int(os.environ.get("FITS", 4))
SHORT = """
extends = "tiny"
[stage1.parts.concept]
steps = 2
[stage1.parts.tokens]
steps = 2
"""
IMPORTS = "import ray.train.torch, tasks.train.loop"


@pytest.mark.timeout(3600)
def test_the_fixed_cost_of_a_fit(encoded_root: str, only_cluster: None, tmp_path: Path) -> None:
    """Stage 1 with two steps a part, again and again in one Ray session; the first starts Ray."""
    (tmp_path / "short.toml").write_text(SHORT)
    store = Store(str(linked(tmp_path / "root", encoded_root)))
    try:
        seconds = [_fit(tmp_path / "short.toml", store, seed) for seed in range(FITS)]
    finally:
        ray_cluster.leave()
    least = median(_imports() for _ in range(3))
    later = median(seconds[1:])
    told = {"first_seconds": seconds[0], "next_seconds": later, "import_seconds": least}
    record("fit", {name: round(value, 2) for name, value in told.items()}
           | {"next_over_import": round(later / least, 2)})  # fmt: skip


def _fit(preset: Path, store: Store, seed: int) -> float:
    config = resolve(Parameters(preset=str(preset), seed=seed))
    up_to(pipeline(config, store=store, do=plainly), "encode")
    began = time.monotonic()
    made = up_to(pipeline(config, store=store, do=plainly), "stage1")
    assert not made["stage1"].reused
    return time.monotonic() - began


def _imports() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.monotonic() - began
