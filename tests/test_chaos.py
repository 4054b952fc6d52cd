"""Each process is killed in mid stage 1; the same command then ends with the same bits.

Run by `make prove`. The wall times are recorded beside the undisturbed run's, not asserted.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.servers.run import family
from infra.servers.state import servers
from infra.store import Store, open_artifact
from tests.benchmarks.record import record
from tests.shelf import LIBRARIES
from tests.town import command, project, psavlm, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
DATA_STEPS = (
    *LIBRARIES, "tiny_world", "ingest", "validate", "balance", "base_model", "encode",
)  # fmt: skip
RUN = ("prefect", "deployment", "run", "psavlm/full-pipeline", "--watch", "-p")
VICTIMS = ("flow", "worker", "ray", "prefect")


@pytest.fixture(scope="module")
def town(
    encoded_root: str, only_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    home = project(tmp_path_factory.mktemp("town"))
    try:
        psavlm("up", cwd=home)
        yield home
    finally:
        command("psavlm", "down", cwd=home)


@pytest.fixture(scope="module")
def undisturbed(town: Path, tiny_root: str) -> dict:
    root = fresh_root(town, tiny_root, "undisturbed")
    began = time.monotonic()
    finished(town, root)
    return {"seconds": time.monotonic() - began, "weights": weights(root)}


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_same_command_ends_with_the_same_bits_after_a_kill_of(
    victim: str, town: Path, undisturbed: dict, tiny_root: str
) -> None:
    root = fresh_root(town, tiny_root, victim)
    first = start(*RUN, f"root={root}", cwd=town)
    wait_for_stage1(first, root)
    for process in victims(victim, town, root):
        process.kill()
    began = time.monotonic()
    psavlm("up", cwd=town)
    finished(town, root)
    seconds = {"seconds": time.monotonic() - began, "undisturbed": undisturbed["seconds"]}
    record(f"kill-{victim}", {name: round(value, 1) for name, value in seconds.items()})
    first.terminate()
    first.communicate()
    assert weights(root) == undisturbed["weights"]
    states = {run["state"]["type"] for run in runs(town)}
    assert states.isdisjoint({"RUNNING", "PENDING", "CANCELLING"})
    registered = [v["fingerprint"] for v in psavlm("registry", cwd=town)["versions"]]
    assert len(registered) == len(set(registered)) == 1


def test_a_cancelled_run_ends_its_training_and_goes_on_later_with_the_same_bits(
    town: Path, undisturbed: dict, tiny_root: str
) -> None:
    root = fresh_root(town, tiny_root, "cancelled")
    first = start(*RUN, f"root={root}", cwd=town)
    worker = psutil.Process(wait_for_stage1(first, root))
    (run,) = [one["id"] for one in runs(town) if one["state"]["type"] == "RUNNING"]
    began = time.monotonic()
    assert command("prefect", "flow-run", "cancel", run, cwd=town).returncode == 0
    worker.wait(timeout=60)
    training = time.monotonic() - began
    first.communicate()
    # The flow's own process may say Crashed before the worker says Cancelled.
    while (state := state_of(run, town)) != "CANCELLED" and time.monotonic() - began < 60:
        time.sleep(0.5)
    over = time.monotonic() - began
    record("cancel", {"training_seconds": round(training, 1), "run_seconds": round(over, 1)})
    assert state == "CANCELLED"
    finished(town, root)
    assert weights(root) == undisturbed["weights"]


def fresh_root(town: Path, tiny_root: str, name: str) -> Path:
    """A root that has the data and the base, and no training."""
    root = town / "roots" / name
    for step in DATA_STEPS:
        shutil.copytree(Path(tiny_root) / step, root / step, copy_function=os.link)
    return root


def finished(town: Path, root: Path) -> None:
    done = command(*RUN, f"root={root}", cwd=town)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def wait_for_stage1(first: subprocess.Popen, root: Path) -> int:
    """Wait until stage 1 trains its second part; returns the pid of its rank 0."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert first.poll() is None, first.communicate()
        for path in (root / "runs").glob("stage1-*/progress.json"):
            try:
                state = json.loads(path.read_text())
            except ValueError:  # half-written
                continue
            if state["part"] == "tokens" and state["step"] >= 20:
                return int(state["pid"])
        time.sleep(0.1)
    raise AssertionError("stage 1 never began to train")


def victims(name: str, town: Path, root: Path) -> list[psutil.Process]:
    """Whom to kill: the flow by its lease on stage 1, the worker alone, of others all they have."""
    if name == "flow":
        (lease,) = root.glob("stage1/*/lease.json")
        return [psutil.Process(json.loads(lease.read_text())["pid"])]
    server = servers(town)[name]
    return [psutil.Process(server.pid)] if name == "worker" else family(server)


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


def state_of(run: str, town: Path) -> str:
    """The type of a flow run's state."""
    return str(next(one["state"]["type"] for one in runs(town) if one["id"] == run))


def runs(town: Path) -> list[dict]:
    """All flow runs, the newest first."""
    told = command("prefect", "flow-run", "ls", "-o", "json", cwd=town)
    return json.loads(told.stdout)
