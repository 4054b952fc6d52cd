"""A cluster elsewhere, run by `make prove`: a Ray head that does not have this project, an S3 root.

On one machine: head, bucket and command are processes of their own that share the network alone.
"""

import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.store import Store
from tests.bare_head import Head, bare_head
from tests.benchmarks.record import record
from tests.s3_server import BUCKET, s3_server
from tests.s3_traces import leaks, planted
from tests.test_s3_run import copy_to_bucket
from tests.test_train_proofs import begun, files_of, finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SHORT = """
extends = "tiny"
[stage1]
checkpoint_every = 20
[stage1.parts.concept]
steps = 40
[stage1.parts.tokens]
steps = 20
"""
# Long enough to be met in the middle; checkpoints only when asked for.
LONG = """
extends = "tiny"
[stage1]
checkpoint_every = 5000
[stage1.parts.concept]
steps = 1500
[stage1.parts.tokens]
steps = 20
"""
MANY = 'extends = "tiny"\n[stage1]\nworkers = 4\n'


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("presets")
    texts = {"short": SHORT, "long": LONG, "many": MANY}
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return {name: str(folder / f"{name}.toml") for name in texts}


@pytest.fixture(scope="module")
def local(
    only_cluster: None,
    encoded_root: str,
    presets: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict]:
    """What a command makes with a Ray of its own and a root on disk; the data, once."""
    home = tmp_path_factory.mktemp("local")
    root = home / "root"
    shutil.copytree(Path(encoded_root) / "base_model", root / "base_model")
    return {
        name: finished(begun("stage1", "--preset", presets[name], "--root", str(root), cwd=home))
        for name in ("short", "long")
    }


@pytest.fixture(scope="module")
def settings(local: dict, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A bucket with all but the trained models, and the keys to it."""
    root = Path(local["short"]["uri"]).parents[1]
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        found = planted(server["AWS_ENDPOINT_URL"], tmp_path_factory.mktemp("aws"))
        for name, value in found.items():
            patch.setenv(name, value)
        for step in root.iterdir():
            if step.name != "stage1":
                copy_to_bucket(step, f"team/{step.name}")
        yield found


@pytest.fixture(scope="module")
def head(settings: dict, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    temporary = Path(tempfile.mkdtemp(dir="/tmp", prefix="ray-"))
    with (
        pytest.MonkeyPatch.context() as patch,
        bare_head(tmp_path_factory.mktemp("head"), temporary, settings) as started,
    ):
        for name, value in started.settings.items():
            patch.setenv(name, value)
        # It counts for Ray's own client, and not for a cluster that is named.
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        yield started
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def asked(head: Head) -> list[str]:
    return ["--root", f"s3://{BUCKET}/team", "--cluster", head.address]


def jobs(head: Head) -> list[dict]:
    from infra.ray_client import connect

    found = [job.model_dump(mode="json") for job in connect(head.address).list_jobs()]
    return sorted(found, key=lambda job: job["start_time"])


def until(condition, *, driver: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        assert driver.poll() is None, driver.communicate()[1][-3000:]
        time.sleep(0.5)


def trained(step: int):
    """Whether the run in the bucket has come so far."""
    files, root = Store(f"s3://{BUCKET}/team").filesystem()

    def come() -> bool:
        files.invalidate_cache()
        for path in files.glob(f"{root}/runs/stage1-*/progress.json"):
            if json.loads(files.cat_file(path))["step"] >= step:
                return True
        return False

    return come


def test_the_head_does_not_have_this_project(head: Head) -> None:
    from infra.ray_client import connect

    client = connect(head.address)
    name = client.submit_job(entrypoint="python -c 'import ray, torch, tasks'")
    while not client.get_job_status(name).is_terminal():
        time.sleep(0.5)
    assert client.get_job_status(name) == "FAILED"
    assert "No module named 'tasks'" in client.get_job_logs(name)


def test_a_training_there_has_the_bytes_of_one_here_and_tells_no_key(
    head: Head, local: dict, presets: dict, asked: list[str], tmp_path: Path
) -> None:
    began, before = time.monotonic(), len(jobs(head))
    driver = begun("stage1", "--preset", presets["short"], *asked, cwd=tmp_path)
    out, err = driver.communicate(timeout=1800)
    assert driver.returncode == 0, err[-3000:]
    record("cluster-job", {"seconds": round(time.monotonic() - began, 1)})
    made = json.loads(out)
    assert made["fingerprint"] == local["short"]["fingerprint"] and not made["reused"]
    assert files_of(made) == files_of(local["short"])
    manifest = Store(f"s3://{BUCKET}/team").manifest
    assert "joining Ray at" in err and "submitted as job stage1-" in err
    from infra.provenance import provenance
    from infra.store import open_artifact

    told = manifest(open_artifact(made["uri"])).provenance
    assert told["commit"] == provenance()["commit"] and told["lock"] == provenance()["lock"]
    # The last job is this one; what the cluster tells of it, and every log of Ray's, has no key.
    (job,) = jobs(head)[before:]
    assert made["fingerprint"] in job["submission_id"] and job["status"] == "SUCCEEDED"
    assert list(head.logs.rglob("*.log"))
    assert leaks(head.logs, tmp_path, also={"jobs": json.dumps(jobs(head)).encode()}) == []
    again = finished(begun("stage1", "--preset", presets["short"], *asked, cwd=tmp_path))
    assert again["reused"] and len(jobs(head)) == before + 1


def test_a_job_outlives_its_command_is_rejoined_stopped_and_goes_on(
    head: Head, local: dict, presets: dict, asked: list[str], tmp_path: Path
) -> None:
    """The first command is killed, the second finds its job and is ended, the third goes on."""
    words = ["stage1", "--preset", presets["long"], *asked]
    before = len(jobs(head))
    first = begun(*words, cwd=tmp_path)
    until(trained(step=5), driver=first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = begun(*words, cwd=tmp_path)
    heard: list[str] = []
    for line in second.stderr:
        heard.append(line)
        if "rejoined" in line:
            break
    assert "rejoined" in heard[-1], heard
    until(trained(step=30), driver=second)
    second.send_signal(signal.SIGTERM)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 1 and json.loads(out)["error"] == "StoppedError", err[-3000:]
    (stopped,) = jobs(head)[before:]
    assert stopped["status"] == "STOPPED"
    files, root = Store(f"s3://{BUCKET}/team").filesystem()
    files.invalidate_cache()
    assert files.glob(f"{root}/runs/stage1-*/checkpoint_*")
    made = finished(begun(*words, cwd=tmp_path))
    assert files_of(made) == files_of(local["long"])
    assert [job["status"] for job in jobs(head)[before:]] == ["STOPPED", "SUCCEEDED"]
    files.invalidate_cache()
    assert not files.glob(f"{root}/runs/*")


def test_what_the_job_cannot_do_is_one_error_of_its_own_class(
    head: Head, presets: dict, asked: list[str], tmp_path: Path
) -> None:
    driver = begun("stage1", "--preset", presets["many"], *asked, cwd=tmp_path)
    out, err = driver.communicate(timeout=900)
    assert driver.returncode == 2, err[-3000:]
    told = json.loads(out)
    assert told["error"] == "ConfigError"
    assert "has 2 CPUs and the training asks for 4" in told["message"]
    assert "ray job logs stage1-" in told["message"] and head.address in told["message"]


def test_a_wrong_token_is_told(head: Head, presets: dict, asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        driver = begun("stage1", "--preset", presets["many"], *asked, cwd=tmp_path)
        out, _ = driver.communicate(timeout=300)
    assert driver.returncode == 2 and "wants its own token" in json.loads(out)["message"]
