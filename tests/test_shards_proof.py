"""Stage 2 in shards as a whole run of the command: run by `make prove`.

Against the same run without shards, and with workers killed on the way.
"""

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model.tensors import read_tensors
from tests.benchmarks.record import record
from tests.test_train_proofs import begun, files_of, finished, linked, wait_for, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KILLED_AFTER = (12, 25, 33)
WHOLE = """
extends = "tiny"
[method]
stage2 = "full"
[stage1.parts.concept]
steps = 20
[stage1.parts.tokens]
steps = 10
[stage2]
checkpoint_every = 10
max_failures = 5
[stage2.parts.full]
steps = 40
lr = 1e-4
"""
PRESETS = {"whole": WHOLE, "shards": WHOLE.replace("[stage2]", '[stage2]\nshard = "fsdp"')}


@pytest.fixture(scope="module")
def root(encoded_root: str, only_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the data, a base and a short stage 1; the presets beside it."""
    home = tmp_path_factory.mktemp("shards")
    for name, text in PRESETS.items():
        (home / f"{name}.toml").write_text(text)
    root = linked(home / "root", encoded_root)
    finished(begun("stage1", "--preset", "whole.toml", "--root", str(root), cwd=home))
    return root


def stage2(root: Path, preset: str, home: Path, *, kills: tuple[int, ...] = ()) -> dict:
    """Stage 2 under a root of its own; a worker is killed after each step of `kills`."""
    own = linked(home / "root", str(root))
    shutil.copytree(root / "stage1", own / "stage1", copy_function=os.link)
    asked = ("--preset", str(root.parent / f"{preset}.toml"), "--root", str(own))
    driver = begun("stage2", *asked, cwd=home)
    for step in kills:
        wait_for(driver, own, "stage2", at=("full", step))
        workers_of(driver)[-1].kill()
    return finished(driver)


def test_a_run_in_shards_is_the_run_without_and_survives_its_workers(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runs = {"whole": ("whole", ()), "shards": ("shards", ()), "killed": ("shards", KILLED_AFTER)}
    made = {
        name: stage2(root, preset, tmp_path_factory.mktemp(name), kills=kills)
        for name, (preset, kills) in runs.items()
    }
    assert files_of(made["killed"]) == files_of(made["shards"])
    assert files_of(made["shards"]).keys() == files_of(made["whole"]).keys()
    folders = [Path(made[name]["uri"]) for name in ("whole", "shards")]
    curves = [pq.read_table(found(f, "losses.parquet"))["loss"].to_pylist() for f in folders]
    gaps = [abs(a - b) for a, b in zip(*curves, strict=True)]
    one, two = (read_tensors(found(f, "language.safetensors")) for f in folders)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    told = {"steps": len(gaps), "kills": len(KILLED_AFTER)}
    record("shards", {**told, "loss_gap": max(gaps), "weight_gap": apart})
    assert one.keys() == two.keys() and len(gaps) == 40
    assert gaps[0] < 1e-6 and max(gaps) < 1e-5 and apart < 1e-4


def found(artifact: Path, name: str) -> Path:
    """The one file of that name in an artifact."""
    (path,) = artifact.rglob(name)
    return path
