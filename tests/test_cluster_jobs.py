"""A training for a cluster elsewhere: what is sent, what is refused, how a job is waited for."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.line import pipeline, plainly
from infra import ray_client, ray_jobs, ray_log
from infra.cluster_address import PATTERN, SHARED, check_cluster, takes_jobs, to_join
from infra.ray_jobs import Order, run_job
from infra.ray_log import error_line, failure
from infra.ray_settings import JOB, MODE, OWN, TOKENS, prepare, prepare_to_ask
from infra.shipment import PACKAGES, SUFFIXES, pack
from infra.store import Store
from schemas.artifact import Artifact
from schemas.errors import ConfigError, DataError, StoppedError, TrainingError
from schemas.hints import load_hints
from schemas.presets import Parameters, resolve
from schemas.taxonomy import load_taxonomy
from tasks.train.job import Inputs, Job
from tasks.train.remote import Task, check_versions, order
from tasks.train.step import ingredients
from tests.bare_head import bare_python
from tests.jobs_api import Api, jobs_api

HOME = Path(__file__).resolve().parents[1]
RAY = "2.60.0"


def new_job(root: str = "s3://bucket/team") -> Job:
    taxonomy = load_taxonomy()
    made = {
        name: Artifact(uri=f"{root}/{name}/{'0' * 24}", step=name, fingerprint="0" * 24)
        for name in ("base", "balanced", "features", "labelled")
    }
    return Job(
        config=resolve(Parameters()).stage1,
        inputs=Inputs(**made),
        taxonomy=taxonomy,
        hints=load_hints("default", taxonomy=taxonomy),
        root=root,
        progress=f"{root}/runs/stage1-{'a' * 24}/progress.json",
    )


# --- what is sent ---


@pytest.fixture(scope="module")
def code(tmp_path_factory) -> Path:
    return pack(tmp_path_factory.mktemp("code"))


def test_the_packages_and_their_data_are_sent_and_nothing_else(code):
    sent = set(zipfile.ZipFile(code).namelist())
    beside = {name for name in sent if name.partition("/")[0] not in PACKAGES}
    assert {re.sub(r"psavlm-[\d.]+\.", "", name) for name in beside} == {
        "constraints.txt", "origin.json", "dist-info/METADATA",
    }  # fmt: skip
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    listed = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=True).stdout
    files = {name for name in listed.split("\n") if name.endswith(SUFFIXES)}
    assert sent - beside == {name for name in files if (HOME / name).is_file()}
    data = tomllib.loads((HOME / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = [pattern for found in data["package-data"].values() for pattern in found]
    assert {Path(pattern).suffix for pattern in patterns} <= set(SUFFIXES)


def test_the_same_code_is_the_same_zip(code, tmp_path):
    assert pack(tmp_path).read_bytes() == code.read_bytes()


SEEN = """
import json
import flows
from infra.provenance import provenance
told = provenance()
print(json.dumps([flows.__file__, told["commit"], told["lock"], told["psavlm"]]))
"""


def test_the_code_there_tells_where_it_is_from(code, tmp_path):
    zipfile.ZipFile(code).extractall(tmp_path)
    # -S reads no .pth file, such as the one that leads to this checkout.
    path = os.pathsep.join([str(tmp_path), sysconfig.get_path("purelib")])
    done = subprocess.run(
        [sys.executable, "-S", "-c", SEEN],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    from infra.provenance import provenance

    here = provenance()
    expected = [here["commit"], here["lock"], here["psavlm"]]
    assert json.loads(done.stdout) == [str(tmp_path / "flows/__init__.py"), *expected]


def test_a_job_comes_as_far_as_its_cluster_without_a_checkout(code, tmp_path):
    """As Ray types its command, in the folder of the code; here no head answers."""
    zipfile.ZipFile(code).extractall(tmp_path / "code")
    job = new_job(str(tmp_path / "root"))
    made = order(job, tmp_path)
    place = tmp_path / "root" / "runs" / job.run / "task.json"
    place.parent.mkdir(parents=True)
    place.write_text(new_task(job).model_dump_json())
    python = bare_python(tmp_path / "python")
    kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    told = {"PATH": f"{python.parent}:/usr/bin:/bin", "RAY_ADDRESS": "127.0.0.1:9", JOB: "{}"}
    done = subprocess.run(
        made.command, shell=True, cwd=tmp_path / "code", capture_output=True, text=True,
        env={**kept, **told, "PYTHONPATH": str(tmp_path / "code")},
    )  # fmt: skip
    found = failure(done.stdout, "", where="there")
    assert isinstance(found, ConfigError) and done.returncode == 2, done.stderr[-2000:]
    assert "no Ray cluster at 127.0.0.1:9" in str(found)
    assert "joining Ray at 127.0.0.1:9" in done.stderr
    # Neither a lease nor a token is left.
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not {"lease.json", "ray-token"} & left


def new_task(job: Job) -> Task:
    return Task(job=job, versions=ingredients(**job.plan)["inputs"])


def test_a_training_sent_as_a_file_is_the_same_training():
    job = new_job()
    task = Task.model_validate_json(new_task(job).model_dump_json())
    assert task.job == job
    sent, kept = (Store.fingerprint("stage1", 1, **ingredients(**j.plan)) for j in (task.job, job))
    assert sent == kept
    check_versions(task)


def test_the_order_names_root_and_run_and_no_key(tmp_path, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "RAY_AUTH_TOKEN", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, "hidden-word")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    job = new_job("s3://bucket/a team's")
    made = order(job, tmp_path)
    assert "hidden-word" not in f"{made}" and made.variables["HF_HUB_OFFLINE"] == "1"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    words = ["exec", "python", "-m", "tasks.submitted", python, job.root, f"stage1-{'a' * 24}"]
    assert shlex.split(made.command) == words
    # One id per training and root: the artifact is to lie in that root.
    assert made.key == order(job, tmp_path).key != order(new_job(), tmp_path).key
    assert made.key.startswith(f"stage1-{'a' * 24}-")


# --- what is refused ---


@pytest.mark.parametrize(
    "address", ["http://head:8265", "https://ray.example/team", "http://[::1]:1"]
)
def test_a_folder_of_this_machine_is_refused_unless_it_is_said_to_be_shared(
    address, tmp_path, monkeypatch
):
    monkeypatch.delenv(SHARED, raising=False)
    assert takes_jobs(address)
    check_cluster(address, "s3://bucket/team")
    root = str(tmp_path / "shared" / "store")
    with pytest.raises(ConfigError, match=rf"--root s3://bucket/prefix, .* {SHARED}"):
        check_cluster(address, root)
    monkeypatch.setenv(SHARED, str(tmp_path / "shared"))
    check_cluster(address, root)
    with pytest.raises(ConfigError, match="cannot be taken to see the root"):
        check_cluster(address, str(tmp_path / "shared-not"))


@pytest.mark.parametrize(
    "address", ["ray://head:10001", "http://me:hidden-word@head:8265", "head", "http://", "h:x"]
)
def test_what_is_no_address_is_refused_and_no_password_told(address):
    with pytest.raises(ConfigError, match="is no address") as error:
        check_cluster(address, "s3://bucket/team")
    assert "hidden-word" not in str(error.value)
    assert not re.fullmatch(PATTERN, address)


def test_a_head_to_join_may_have_a_folder_as_root(tmp_path):
    for address in ("", "127.0.0.1:6379", "head:6379"):
        check_cluster(address, str(tmp_path))
        assert not takes_jobs(address) and to_join(address) == address
    assert to_join("http://head:8265") == ""


def test_a_run_is_refused_before_its_first_step(tmp_path, monkeypatch):
    monkeypatch.delenv(SHARED, raising=False)
    store = Store(str(tmp_path / "root"))
    steps = pipeline(resolve(Parameters()), store=store, do=plainly, cluster="http://head:8265")
    with pytest.raises(ConfigError, match="cannot be taken to see the root"):
        next(steps)
    assert not Path(store.root).exists()


def test_another_python_is_told_by_a_line_before_anything_is_imported(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tasks.submitted", "3.9", "root", "stage1-0"],
        cwd=HOME, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    found = failure(done.stdout, "", where="there")
    assert isinstance(found, ConfigError) and "and 3.9 where the command was typed" in str(found)
    assert "schemas" not in done.stderr and "pydantic" not in done.stderr


def test_other_libraries_are_told_by_name_and_version(monkeypatch):
    task = new_task(new_job())
    older = Task.model_validate({**dict(task), "versions": {**task.versions, "torch": "0.1"}})
    with pytest.raises(ConfigError, match=r"the cluster has torch \S+ instead of 0\.1: install"):
        check_versions(older)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ConfigError, match="the cluster has no torch: install the libraries of con"):
        check_versions(task)


# --- whose token ---


@pytest.fixture
def plain(monkeypatch, tmp_path) -> Path:
    """No token and no cluster of this machine's; what is set in the environment is undone."""
    for name in (*TOKENS, MODE, JOB, OWN):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


def test_a_token_of_this_machine_is_not_sent_to_another(plain, monkeypatch):
    (plain / "ray-token").write_text("mine")
    monkeypatch.setenv("HOME", str(plain))
    prepare_to_ask("http://head.example:8265", plain)
    assert not any(name in os.environ for name in (*TOKENS, MODE))
    prepare_to_ask("http://127.0.0.1:8265", plain)
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(plain / "ray-token")
    assert os.environ[MODE] == "token"


def test_a_job_keeps_the_token_of_its_cluster(plain, monkeypatch):
    monkeypatch.setenv(JOB, "{}")
    prepare(plain)
    assert not any(name in os.environ for name in (*TOKENS, MODE))
    assert list(plain.iterdir()) == []
    monkeypatch.delenv(JOB)
    prepare(plain)
    assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()


# --- how a job is waited for ---


@pytest.fixture
def api(plain, monkeypatch) -> Iterator[Api]:
    monkeypatch.setattr(ray_jobs, "POLL_S", 0.02)
    monkeypatch.setattr(ray_log, "AGAIN_S", 0.02)
    # Ray reads both once a process, and another test may have been the first to ask.
    monkeypatch.setenv(MODE, "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1" * 64)
    # It must not count beside the address that is given.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with jobs_api(RAY) as found:
        yield found
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:1"


@pytest.fixture(scope="module")
def wanted(code) -> Order:
    return Order(key="stage1-key", command="exec python x", code=code, variables={"A": "1"})


def test_a_job_is_submitted_followed_and_its_log_told_once_although_the_line_broke(api, wanted):
    told: list[str] = []
    api.looks = 20
    run_job(api.address, wanted, tell=told.append)
    assert told == ["submitted as job stage1-key-1", "one", "2/3", "three"]
    asked = api.asked["stage1-key-1"]
    assert asked["entrypoint"] == wanted.command
    environment = asked["runtime_env"]
    assert re.fullmatch(r"gcs://_ray_pkg_\w+\.zip", environment["working_dir"])
    assert environment["env_vars"] == {"A": "1", "RAY_JOB_STOP_WAIT_TIME_S": "125"}


def test_a_running_job_is_rejoined_and_behind_an_ended_one_comes_the_next(api, wanted):
    told: list[str] = []
    api.status = {"stage1-key-1": "FAILED", "stage1-key-2": "RUNNING", "stage1-other-1": "RUNNING"}
    run_job(api.address, wanted, tell=told.append)
    assert told[0] == "job stage1-key-2 is running already; rejoined" and not api.asked.keys() - {
        "tail"
    }
    run_job(api.address, wanted, tell=told.append)
    assert "stage1-key-3" in api.asked


def test_a_connection_that_breaks_is_taken_up_again(api, wanted):
    """In mid-submission, and while it is waited for."""
    api.lose, api.down = 1, 5
    told: list[str] = []
    run_job(api.address, wanted, tell=told.append)
    assert list(api.status) == ["stage1-key-1"] and api.down == 0
    assert told[0] == "job stage1-key-1 is running already; rejoined"


def test_a_cluster_that_stays_away_is_told_and_its_job_left_alone(api, wanted, monkeypatch):
    monkeypatch.setattr(ray_jobs, "TOO_FAR_S", 0.2)
    monkeypatch.setattr(ray_log, "LAST_S", 0.1)
    api.down = 10**9
    with pytest.raises(TrainingError, match=r"has not answered .* the same command rejoins it"):
        run_job(api.address, wanted, tell=lambda line: None)
    assert api.stopped == [] and api.status == {"stage1-key-1": "RUNNING"}


def test_a_cluster_that_has_forgotten_the_job_is_told(api, wanted, monkeypatch):
    monkeypatch.setattr(ray_log, "LAST_S", 0.1)

    def forget(line: str) -> None:
        api.status.clear()

    with pytest.raises(TrainingError, match="does not know the job any more"):
        run_job(api.address, wanted, tell=forget)


def test_a_failed_job_is_its_own_error_or_its_last_lines(api, wanted):
    api.then = "FAILED"
    api.log = f"Traceback\n{error_line('DataError', 'no rows')}\n*** exit\n"
    told: list[str] = []
    match = r"on the cluster: no rows \(log: ray job logs stage1-key-1 --address http://127"
    with pytest.raises(DataError, match=match):
        run_job(api.address, wanted, tell=told.append)
    assert "Traceback" in told and not any("DataError" in line for line in told)
    api.looks, api.log = 1, "Traceback\nKeyError: 1\n"
    with pytest.raises(TrainingError, match=r"its last lines: Traceback \| KeyError: 1 \(log: ray"):
        run_job(api.address, wanted, tell=told.append)
    api.looks, api.log = 1, ""
    with pytest.raises(TrainingError, match=r"its last lines: ended \(log"):
        run_job(api.address, wanted, tell=told.append)


def test_a_job_that_somebody_stops_goes_on_with_the_same_command(api, wanted):
    api.then = "STOPPED"
    with pytest.raises(StoppedError, match="goes on from its last checkpoint"):
        run_job(api.address, wanted, tell=lambda line: None)


class Ended(BaseException):
    """As a signal's handler raises."""


def test_who_ends_the_command_stops_the_job(api, wanted, monkeypatch):
    api.looks = 10**9
    wait = threading.Event.wait

    def signalled(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread() and timeout == ray_jobs.POLL_S:
            raise Ended
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", signalled)
    with pytest.raises(Ended):
        run_job(api.address, wanted, tell=lambda line: None)
    assert api.stopped == ["stage1-key-1"]


def test_jobs_of_other_threads_are_stopped_when_a_comparison_ends(api, wanted):
    api.looks = 10**9
    errors: list[Exception] = []

    def work() -> None:
        try:
            run_job(api.address, wanted, tell=lambda line: None)
        except StoppedError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not api.status:
        thread.join(0.01)
    ray_jobs.end_all()
    thread.join(30)
    assert api.stopped == ["stage1-key-1"] and "the same command goes on" in str(errors[0])


def test_nobody_another_server_or_another_ray_at_the_address_is_told(api, wanted):
    with pytest.raises(ConfigError, match=r"no Ray jobs API answers at http://127.0.0.1:9 "):
        run_job("http://127.0.0.1:9", wanted, tell=print)
    with pytest.raises(ConfigError, match="no Ray jobs API answers"):
        run_job(f"{api.address}/elsewhere", wanted, tell=print)
    api.ray = "2.9.1"
    with pytest.raises(ConfigError, match=r"runs Ray 2\.9\.1, and this project Ray 2\.60"):
        run_job(api.address, wanted, tell=print)
    assert api.status == {} and ray_client.ANSWER_S < ray_client.TOO_FAR_S
