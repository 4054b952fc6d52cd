"""Training under fire, at full length: run by `make prove`.

Fifty SIGKILLs of workers over both stages, SIGTERM, the scrape endpoint, a node that goes away.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from infra import ray_cluster, ray_settings
from infra.store import Store, open_artifact
from schemas.presets import Parameters, resolve
from tasks.train import Inputs, train
from tasks.train.gauges import GAUGES, PREFIX
from tests.benchmarks.record import record
from tests.drivers import begun, files_of, finished, linked, state_of, wait_for, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
KILLS = int(os.environ.get("PSAVLM_TEST_KILLS", "25"))  # in each stage
OFTEN = f"""
extends = "tiny"
[stage1]
checkpoint_every = 10
max_failures = {KILLS + 5}
[stage2]
checkpoint_every = 10
max_failures = {KILLS + 5}
"""
SELDOM = """
extends = "tiny"
[stage1]
checkpoint_every = 1000
"""


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory) -> Path:
    preset = tmp_path_factory.mktemp("preset") / "often.toml"
    preset.write_text(OFTEN)
    return preset


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all that have their cluster in this process: it keeps the first one's."""
    return tmp_path_factory.mktemp("token")


@pytest.fixture
def own_token(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ray_settings.own_settings(token).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def calm(
    encoded_root: str, only_cluster: None, often: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict]:
    """Both stages, undisturbed."""
    home = tmp_path_factory.mktemp("calm")
    root = linked(home / "root", encoded_root)
    asked = ("--preset", str(often), "--root", str(root))
    return {s: finished(begun(s, *asked, cwd=home)) for s in ("stage1", "stage2")}


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_workers_killed_at_random_steps_end_with_the_undisturbed_bits(
    stage: str, calm: dict, often: Path, encoded_root: str, tmp_path: Path
) -> None:
    root = linked(tmp_path / "root", encoded_root)
    if stage == "stage2":
        shutil.copytree(Path(calm["stage1"]["uri"]).parent, root / "stage1", copy_function=os.link)
    draw, began = random.Random(stage), time.monotonic()
    driver = begun(stage, "--preset", str(often), "--root", str(root), cwd=tmp_path)
    killed: set[int] = set()
    while len(killed) < KILLS and driver.poll() is None:
        workers = [p for p in workers_of(driver) if p.pid not in killed]
        state = state_of(root, stage)
        if workers and state and state["pid"] in {p.pid for p in workers}:
            time.sleep(draw.random())  # a random step, or in mid checkpoint
            victim = draw.choice(workers)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                killed.add(victim.pid)
        time.sleep(0.05)
    artifact = finished(driver)
    seconds = time.monotonic() - began
    record(f"kills-{stage}", {"kills": len(killed), "seconds": round(seconds, 1)})
    assert len(killed) == KILLS
    assert files_of(artifact) == files_of(calm[stage])
    assert not list(root.glob("runs/*"))


@pytest.mark.parametrize("command", [("stage1",), ("run", "--until", "stage1")])
def test_sigterm_writes_a_checkpoint_and_the_same_command_goes_on(
    command: tuple[str, ...], calm: dict, encoded_root: str, tmp_path: Path
) -> None:
    """No other checkpoint would be written, so that the one of the signal is what goes on."""
    preset = tmp_path / "seldom.toml"
    preset.write_text(SELDOM)
    root = linked(tmp_path / "root", encoded_root)
    asked = (*command, "--preset", str(preset), "--root", str(root))
    driver = begun(*asked, cwd=tmp_path)
    before = wait_for(driver, root, "stage1", at=("concept", 60))
    began = time.monotonic()
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=300)
    record("sigterm", {"seconds": round(time.monotonic() - began, 1)})
    assert driver.returncode == 1
    told = json.loads(out)
    assert told["error"] == "StoppedError" and f"psavlm {' '.join(asked)}" in told["message"]
    assert "asked to end" in err
    stopped = state_of(root, "stage1")
    assert stopped["stopped"] and stopped["step"] >= before["step"]
    kept = max(root.glob("runs/stage1-*/checkpoint_2*"))  # another one, if a part has ended
    state = json.loads((kept / "state" / "state.json").read_text())
    assert (state["part"], state["step"]) == (stopped["part"], stopped["step"])
    again = finished(begun(*asked, cwd=tmp_path))
    again = again.get("artifacts", {}).get("stage1", again)
    # Another rhythm of checkpoints is another artifact, and the same model.
    assert files_of(again) == files_of(calm["stage1"])
    assert not list(root.glob("runs/*"))


def test_a_node_that_goes_away_in_mid_run_changes_no_bit(
    calm: dict, often: Path, encoded_root: str, own_token: None, tmp_path: Path
) -> None:
    """Two nodes of one worker each; the second is removed, and another one takes its place."""
    from ray.cluster_utils import Cluster

    root = linked(tmp_path / "root", encoded_root)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        asked = ("--preset", str(often), "--root", str(root), "--cluster", cluster.address)
        driver = begun("stage1", *asked, cwd=tmp_path)
        wait_for(driver, root, "stage1", at=("concept", 30))
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        artifact = finished(driver)
    finally:
        cluster.shutdown()
    assert files_of(artifact) == files_of(calm["stage1"])


def test_a_loss_that_blows_up_ends_the_command_at_once(
    only_cluster: None, encoded_root: str, tmp_path: Path
) -> None:
    preset = tmp_path / "wild.toml"
    preset.write_text('extends = "tiny"\n[stage1.parts.concept]\nlr = 1e30\nwarmup_steps = 0\n')
    root = linked(tmp_path / "root", encoded_root)
    driver = begun("stage1", "--preset", str(preset), "--root", str(root), cwd=tmp_path)
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 1
    told = json.loads(out)
    assert told["error"] == "TrainingError"
    assert re.search(
        r"stopped before the optimiser step: .*no row of this batch has a finite loss",
        told["message"],
    )


def test_figures_are_on_the_scrape_endpoint_while_it_trains(
    only_cluster: None, encoded_root: str, own_token: None, tmp_path: Path
) -> None:
    config, store = resolve(Parameters(preset="tiny")), Store(encoded_root)
    from flows.line import pipeline, plainly, up_to

    made = up_to(pipeline(config, store=store, do=plainly), "encode")
    root = linked(tmp_path / "root", encoded_root)
    roles = {"base": "base", "balanced": "balance", "features": "encode", "labelled": "validate"}
    own = {
        role: open_artifact(f"{root}/{made[n].step}/{made[n].fingerprint}")
        for role, n in roles.items()
    }
    try:
        ray_cluster.join(cpus=2)
        import ray

        port = ray.nodes()[0]["MetricsExportPort"]
        work = threading.Thread(
            target=train, args=(config.stage1, Inputs(**own)), kwargs={"store": Store(str(root))}
        )
        work.start()
        seen: dict[str, float] = {}
        while work.is_alive():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
                text = page.read().decode()
            found = re.findall(rf"^ray_{PREFIX}(\w+)\{{.*\}} (\S+)$", text, re.MULTILINE)
            seen |= {name: float(value) for name, value in found}
            time.sleep(1)
        work.join()
    finally:
        ray_cluster.leave()
    assert set(seen) == set(GAUGES)
    assert seen["clean_per_unsafe"] == pytest.approx(1.0, abs=0.1)
    assert 0 < seen["flop_utilisation"] < 2 and 0 <= seen["data_wait"] < 1
