"""Every process of the house is killed in mid stage 1; the same command then ends with the same bits.

Run by `make prove`. The wall times are recorded beside the undisturbed run's, not asserted.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.store import Store, open_artifact
from tests.benchmarks.record import record
from tests.town import Town, town

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
DATA_STEPS = ("tiny_world", "ingest", "validate", "balance", "base_model", "encode")
RUN = ("prefect", "deployment", "run", "psavlm/full-pipeline", "--watch")
VICTIMS = ("flow", "worker", "ray", "prefect", "mlflow")


@pytest.fixture(scope="module")
def here(
    tiny_root: str, only_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("town")) as place:
        place.psavlm("encode", "--root", tiny_root)
        yield place


@pytest.fixture(scope="module")
def undisturbed(here: Town, tiny_root: str) -> dict:
    root = fresh_root(here, tiny_root, "undisturbed")
    began = time.monotonic()
    here.run(*RUN, "-p", f"root={root}")
    return {"seconds": time.monotonic() - began, "weights": weights(root)}


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_same_command_ends_with_the_same_bits_after_a_kill_of(
    victim: str, here: Town, undisturbed: dict, tiny_root: str
) -> None:
    root = fresh_root(here, tiny_root, victim)
    command = here.start(*RUN, "-p", f"root={root}")
    wait_for_stage1(command, root)
    os.kill(pid_of(victim, here, root), signal.SIGKILL)
    began = time.monotonic()
    here.psavlm("up")
    here.run(*RUN, "-p", f"root={root}")
    seconds = time.monotonic() - began
    command.terminate()
    command.wait()
    record(
        f"kill-{victim}",
        {"seconds": round(seconds, 1), "undisturbed": round(undisturbed["seconds"], 1)},
    )
    assert weights(root) == undisturbed["weights"]
    assert here.json("prefect", "flow-run", "ls", "--state", "Running", "-o", "json") == []
    assert versions(here, root) == [1]


def fresh_root(here: Town, tiny_root: str, name: str) -> Path:
    """A root that has the data and the base, and no training."""
    root = here.folder / "roots" / name
    for step in DATA_STEPS:
        shutil.copytree(Path(tiny_root) / step, root / step, copy_function=os.link)
    return root


def wait_for_stage1(command: psutil.Popen, root: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert command.poll() is None
        for path in (root / "runs").glob("stage1-*/progress.json"):
            try:
                state = json.loads(path.read_text())
            except ValueError:  # half-written
                continue
            if state["part"] == "tokens" and state["step"] >= 20:
                return
        time.sleep(0.1)
    raise AssertionError("stage 1 never began to train")


def pid_of(victim: str, here: Town, root: Path) -> int:
    """The process to kill: a server by its state file, the flow by its lease on stage 1."""
    if victim == "flow":
        (lease,) = root.glob("stage1/*/lease.json")
        return int(json.loads(lease.read_text())["pid"])
    return int(json.loads((here.folder / f".psavlm/servers/{victim}.json").read_text())["pid"])


def weights(root: Path) -> dict[str, str]:
    """The sha256 of every weight file of both stages."""
    store = Store(str(root))
    found = {}
    for manifest in [*root.glob("stage1/*/manifest.json"), *root.glob("stage2/*/manifest.json")]:
        for entry in store.manifest(open_artifact(str(manifest.parent))).files:
            if entry.path.endswith(".safetensors"):
                found[f"{manifest.parent.parent.name}/{entry.path}"] = entry.sha256
    assert len(found) == 3
    return found


def versions(here: Town, root: Path) -> list[int]:
    """How often each fingerprint of this root is registered."""
    told = here.json("psavlm", "registry", "--root", str(root), "--json")
    prints = [version["fingerprint"] for version in told["versions"]]
    return sorted({prints.count(own) for own in prints})
