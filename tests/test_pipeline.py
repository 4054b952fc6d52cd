"""The whole pipeline on the tiny world, as a user runs it: results, reuse, kills."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.line import pipeline, plainly, up_to
from infra.servers.run import lingering
from infra.store import Store, open_artifact
from schemas.presets import Parameters, resolve
from tests.drivers import PSAVLM, begun, files_of, linked, wait_for
from tests.replay import replay
from tests.tiny_bars import missed

# The first test may wait for another module's cluster to be gone.
pytestmark = pytest.mark.timeout(900)
# One worker: each of its deaths costs a start. test_train_proofs.py kills workers of two.
SHORT = """
extends = "tiny"
[stage1]
workers = 1
checkpoint_every = 5
max_failures = 6
[stage1.parts.concept]
steps = 20
[stage1.parts.tokens]
steps = 60
"""
TINY = resolve(Parameters())


def psavlm(*arguments: str, cwd: Path) -> dict:
    """Run the command with --json and return its line."""
    done = subprocess.run(
        [PSAVLM, *arguments, "--json"], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def tiny_run(
    encoded_root: str, only_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> dict:
    return psavlm("run", "--root", encoded_root, cwd=tmp_path_factory.mktemp("first"))


def test_a_base_that_obeys_becomes_a_model_that_refuses(tiny_run: dict) -> None:
    assert missed(tiny_run["reports"]) == []


def test_every_number_has_its_items_and_its_interval(tiny_run: dict) -> None:
    for report in tiny_run["reports"].values():
        assert report["judges"] == {"exact_targets": 1440}
        for metric in report["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]
            assert metric["n"] > 0


def test_the_counts_of_the_trained_steps(tiny_run: dict) -> None:
    counts = {name: set(artifact["counts"]) for name, artifact in tiny_run["artifacts"].items()}
    arms = {f"evaluate/{arm}": {"items"} for arm in ("base", "stage1", "stage2")}
    trained = {"stage1": {"steps"}, "stage2": {"steps"}, **arms, "report": {"arms", "charts"}}
    assert {name: counts[name] for name in trained} == trained  # the others: test_public_names.py


def test_every_step_trained_on_what_the_plan_says_and_held_the_ratio(
    tiny_run: dict, tiny_root: str
) -> None:
    store, items = Store(tiny_root), {"stage1": 300 * 64 + 80 * 32, "stage2": 160 * 32}
    for stage, config in (("stage1", TINY.stage1), ("stage2", TINY.stage2)):
        trained = open_artifact(tiny_run["artifacts"][stage]["uri"])
        balanced = open_artifact(f"{tiny_root}/{store.manifest(trained).parents['balanced']}")
        places = store.local(trained), store.local(balanced)
        assert replay(*places, config.parts) == items[stage]


def test_a_second_run_reuses_every_step(tiny_run: dict, tiny_root: str, tmp_path: Path) -> None:
    again = psavlm("run", "--root", tiny_root, cwd=tmp_path)
    assert all(artifact["reused"] for artifact in again["artifacts"].values())
    assert again["reports"] == tiny_run["reports"]


def test_another_ratio_reruns_from_balance_on(tiny_run: dict, tiny_root: str) -> None:
    config = resolve(Parameters(preset="tiny", clean_per_unsafe=0.5))
    steps = pipeline(config, store=Store(tiny_root), do=plainly)
    artifacts = up_to(steps, "encode")
    reused = {name for name, artifact in artifacts.items() if artifact.reused}
    assert reused == {"world", "ingest", "validate", "base", "encode"}


def test_answer_refuses_the_risk_that_the_image_shows(
    tiny_run: dict, tiny_root: str, tmp_path: Path
) -> None:
    world = Store(tiny_root).local(open_artifact(tiny_run["artifacts"]["world"]["uri"]))
    record = next(r for r in json.loads((world / "vlguard/test.json").read_text()) if not r["safe"])
    (pair,) = record["instr-resp"]
    image = str(world / "vlguard/images" / record["image"])
    model = tiny_run["artifacts"]["stage2"]["uri"]
    told = psavlm(
        "answer", "--artifact", model, "--image", image, pair["instruction"], cwd=tmp_path
    )
    assert told["answer"] == pair["response"]
    assert told["action"] in ("caution", "may_refuse", "refuse")
    assert max(told["types"], key=told["types"].get) in told["answer"]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset of few steps: what is proved with it is that a kill changes nothing."""
    preset = tmp_path_factory.mktemp("preset") / "short.toml"
    preset.write_text(SHORT)
    return preset


def test_five_killed_workers_and_a_killed_driver_end_with_the_same_bits(
    short: Path, encoded_root: str, only_cluster: None, tmp_path: Path
) -> None:
    asked, roots = ("--preset", str(short)), [tmp_path / name for name in ("calm", "killed")]
    for root in roots:
        linked(root, encoded_root)
    undisturbed = psavlm("stage1", *asked, "--root", str(roots[0]), cwd=tmp_path)
    again = _killed("stage1", roots[1], *asked, part="tokens", at=(5, 15, 25, 35, 45, 50))
    assert files_of(undisturbed) == files_of(again)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "part", "earlier"), [("stage1", "tokens", ()), ("stage2", "lora", ("stage1",))]
)
def test_kills_at_full_length_end_with_the_same_bits(
    stage: str, part: str, earlier: tuple[str, ...], tiny_run: dict, tiny_root: str, tmp_path: Path
) -> None:
    root = linked(tmp_path / "killed", tiny_root, *earlier)
    again = _killed(stage, root, part=part, at=(10, 60))
    assert files_of(tiny_run["artifacts"][stage]) == files_of(again)


def test_a_cluster_of_our_own_asks_itself_and_no_dead_one(
    only_cluster: None, tmp_path: Path
) -> None:
    """Ray Train's actors ask for each other by the address that their environment gives."""
    code = """
from infra import ray_cluster

page = ray_cluster.join(cpus=1).dashboard
import ray

@ray.remote
def asked():
    from ray.dashboard.utils import ray_address_to_api_server_url
    return ray_address_to_api_server_url(None)

print(page, ray.get(asked.remote()))
"""
    # As after a cluster that was killed.
    stale = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=stale, capture_output=True, text=True,
        check=True, timeout=300,
    )  # fmt: skip
    page, asked = told.stdout.split()[-2:]
    assert page == asked


def _killed(stage: str, root: Path, *asked: str, part: str, at: tuple[int, ...]) -> dict:
    """SIGKILL of rank 0 at all steps but the last, there of the driver; then the same command."""
    *workers, driver_at = at
    asked = (*asked, "--root", str(root))
    driver = begun(stage, *asked, cwd=root.parent)
    killed: set[int] = set()
    for step in workers:
        killed.add(pid := wait_for(driver, root, stage, at=(part, step))["pid"])
        os.kill(pid, signal.SIGKILL)
    assert len(killed) == len(workers)
    wait_for(driver, root, stage, at=(part, driver_at))
    _kill(driver)
    again = psavlm(stage, *asked, cwd=root.parent)
    assert not again["reused"]
    assert not list(root.glob("runs/*"))
    return again


def _kill(driver: subprocess.Popen) -> None:
    """SIGKILL the driver alone, then wait for its cluster to follow it."""
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.communicate()
    for process in (alive := lingering(children, 60)):
        process.kill()  # of our own making, and in the way of the next cluster
    lingering(alive, 10)
