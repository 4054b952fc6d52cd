"""Training commands as processes: begun, watched by what they tell, and their artifacts' hashes."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from infra.store import Store, open_artifact
from tests.shelf import LIBRARIES

PSAVLM = str(Path(sys.executable).parent / "psavlm")
DATA = (*LIBRARIES, "tiny_world", "ingest", "validate", "balance", "base_model", "encode")


def linked(root: Path, whole: str, *also: str) -> Path:
    """A new root that has the data, the base and some stages of another one, without a copy."""
    for step in (*DATA, *also):
        shutil.copytree(Path(whole) / step, root / step, copy_function=os.link)
    return root


def begun(step: str, *words: str, cwd: Path, **settings: str) -> subprocess.Popen:
    command = [PSAVLM, step, *words, "--json"]
    return subprocess.Popen(
        command, cwd=cwd, env={**os.environ, **settings},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(driver: subprocess.Popen) -> dict:
    out, err = driver.communicate(timeout=3600)
    assert driver.returncode == 0, err[-3000:]
    return json.loads(out)


def state_of(root: Path, stage: str) -> dict | None:
    for path in (root / "runs").glob(f"{stage}-*/progress.json"):
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):  # half-written, or gone with the run
            return None
    return None


def wait_for(driver: subprocess.Popen, root: Path, stage: str, *, at: tuple[str, int]) -> dict:
    """Until rank 0 tells that the part has come to the step."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        assert driver.poll() is None, driver.communicate()[1][-3000:]
        state = state_of(root, stage)
        if state and state["part"] == at[0] and state["step"] >= at[1]:
            return state
        time.sleep(0.05)
    raise AssertionError(f"{stage} never came to {at}")


def workers_of(driver: subprocess.Popen) -> list[psutil.Process]:
    """The processes of a driver's cluster that train."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(driver.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    found.append(process)
    return found


def files_of(artifact: dict) -> dict[str, str]:
    """The hashes of the model's weights, the losses and the rows."""
    files = Store(artifact["uri"].rsplit("/", 2)[0]).manifest(open_artifact(artifact["uri"])).files
    names = (".safetensors", "losses.parquet", "order.parquet")
    return {f.path: f.sha256 for f in files if f.path.endswith(names)}
