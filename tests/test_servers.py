"""`psavlm up` and `down` in a folder of their own: real servers on free ports, killed and taken."""

import asyncio
import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from flows.cli.settings import connect, reach
from infra.process import alive, started
from infra.servers.ask import ask
from infra.servers.deployments import ZOMBIES, deploy, ensure_automation, ensure_pool, stale
from infra.servers.health import healthy
from infra.servers.orphans import FLOWS, RUN_ID, end_orphans
from infra.servers.run import HOME as HOME_VARIABLE
from infra.servers.run import family, lingering
from infra.servers.settings import prefect_url, settings
from infra.servers.state import FOLDER, Server, addresses, servers, write
from infra.servers.temporary import temporary
from schemas.errors import ConfigError
from tasks.credentials import BLOCK, use_credentials
from tests.s3_server import BUCKET, s3_server
from tests.town import HOME, command, project, psavlm
from tests.town import start as begin

NAMES = ["prefect", "ray", "mlflow", "worker"]
# The first test may wait for another module's cluster to be gone.
pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def town(only_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = project(tmp_path_factory.mktemp("town"))
    try:
        psavlm("up", cwd=home)
        yield home
    finally:
        command("psavlm", "down", cwd=home)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a Prefect server without worker or cluster."""
    home = tmp_path_factory.mktemp("prefect")
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_HOME", str(home))
            server = stack.enter_context(temporary(home))
        server.wait()
        yield server.url


@pytest.fixture
def sleeper() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts processes that do nothing, each the leader of a session."""
    begun = []

    def start(**variables: str) -> subprocess.Popen:
        begun.append(
            subprocess.Popen(
                ["sleep", "600"], env={**os.environ, **variables}, start_new_session=True
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def api(town: Path) -> str:
    return f"{addresses(town)['prefect']}/api"


def run_state(town: Path, run: str) -> str:
    return ask(f"{api(town)}/flow_runs/{run}")["state"]["name"]


def wait_for(town: Path, run: str, *names: str) -> str:
    deadline = time.monotonic() + 120
    while (name := run_state(town, run)) not in names:
        assert time.monotonic() < deadline, f"still {name}"
        time.sleep(0.2)
    return name


def submit(town: Path, **parameters: str) -> str:
    deployment = ask(f"{api(town)}/deployments/name/psavlm/full-pipeline")["id"]
    body = {"parameters": {"root": str(town / "store"), **parameters}}
    return ask(f"{api(town)}/deployments/{deployment}/create_flow_run", body)["id"]


def test_all_servers_are_up_and_answer(town: Path) -> None:
    known = servers(town)
    assert list(known) == NAMES
    assert all(healthy(server, town) for server in known.values())


def test_every_page_listens_on_loopback_only(town: Path) -> None:
    for server in servers(town).values():
        for name, port in server.ports.items():
            if name == "ray_head":  # Ray's own ports listen everywhere and ask for the token
                continue
            family = [psutil.Process(server.pid)]
            family += family[0].children(recursive=True)
            bound = {
                connection.laddr.ip
                for process in family
                for connection in process.net_connections()
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            }
            assert bound == {"127.0.0.1"}, name


def test_a_second_up_starts_nothing(town: Path) -> None:
    before = {name: server.pid for name, server in servers(town).items()}
    again = psavlm("up", cwd=town)
    assert {name: line["pid"] for name, line in again.items()} == before
    assert not any(line["started"] for line in again.values())


def test_the_plain_prefect_command_finds_the_deployments(town: Path) -> None:
    done = command("prefect", "deployment", "ls", cwd=town)
    assert done.returncode == 0, done.stderr
    found = ask(f"{api(town)}/deployments/filter", {})
    assert {deployment["name"] for deployment in found} == {
        "full-pipeline", "ratio-sweep", "ablation", "compare",
    }  # fmt: skip
    for deployment in found:
        # A comparison is asked for, the others may also come round by themselves.
        asked_for = deployment["name"] == "compare"
        active = [schedule["active"] for schedule in deployment["schedules"]]
        assert active == ([] if asked_for else [False])
        assert deployment["global_concurrency_limit"]["limit"] == 1
        # No machine's path: every worker fills in its own.
        assert str(HOME) not in json.dumps(deployment) and str(town) not in json.dumps(deployment)


def test_a_misspelt_parameter_is_refused_at_submission(town: Path) -> None:
    done = command(
        "prefect", "deployment", "run", "psavlm/full-pipeline", "-p", "pre_set=tiny", cwd=town
    )
    assert done.returncode == 1
    assert "pre_set" in done.stdout + done.stderr


def test_a_run_of_this_folder_uses_its_servers(town: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(town)
    for name in ("PREFECT_API_URL", "PSAVLM_CLUSTER", "RAY_AUTH_TOKEN_PATH"):
        # Set first, so that what connect() sets is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    connect()
    assert os.environ["PREFECT_API_URL"] == api(town) == prefect_url(town, settings(town))
    assert os.environ["PSAVLM_CLUSTER"] == addresses(town)["cluster"]
    seen = (
        "from infra import ray_cluster; import ray; ray_cluster.join(cpus=1); "
        "print(ray.get_runtime_context().gcs_address)"
    )
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1].endswith(f":{servers(town)['ray'].ports['ray_head']}")


def test_the_dead_runs_of_every_deployed_flow_are_looked_for() -> None:
    plan = yaml.safe_load((HOME / "prefect.yaml").read_text())
    entries = [deployed["entrypoint"].rpartition(".") for deployed in plan["deployments"]]
    flows = [getattr(importlib.import_module(module), name) for module, _, name in entries]
    assert {flow.name for flow in flows} == set(FLOWS)


def test_orphaned_runs_are_crashed_and_free_their_place(town: Path) -> None:
    """A living run is left alone. Then worker and flow are killed: `up` brings back the one, and
    crashes what is left of the other.
    """
    orphan = submit(town, until="base")
    wait_for(town, orphan, "Running")
    psavlm("up", cwd=town)
    assert run_state(town, orphan) == "Running"
    waiting = submit(town, until="world")
    pid = int(ask(f"{api(town)}/flow_runs/{orphan}")["infrastructure_pid"])
    before = servers(town)
    for victim in (before["worker"].pid, pid):
        os.kill(victim, signal.SIGKILL)
    assert run_state(town, orphan) == "Running"
    again = psavlm("up", cwd=town)
    assert [name for name, line in again.items() if line["started"]] == ["worker"]
    assert run_state(town, orphan) == "Crashed"
    assert wait_for(town, waiting, "Completed", "Failed", "Crashed") == "Completed"


def test_a_ray_head_that_dies_while_starting_is_started_once_more(town: Path) -> None:
    first = servers(town)["ray"]
    members = family(first)
    os.kill(first.pid, signal.SIGKILL)
    again = begin("psavlm", "up", cwd=town)
    while (second := servers(town)["ray"]) == first:
        assert again.poll() is None, again.communicate()
        time.sleep(0.01)
    # What is left of the first would keep its ports.
    assert lingering(members, 5) == []
    members = family(second)
    os.kill(second.pid, signal.SIGKILL)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert "the Ray head died while starting: once more" in out + err
    third = servers(town)["ray"]
    assert third.pid != second.pid and healthy(third, town)
    assert lingering(members, 5) == []


def test_down_stops_all_and_leaves_no_process(town: Path) -> None:
    known = servers(town).values()
    family = [
        process
        for server in known
        for process in (psutil.Process(server.pid), *psutil.Process(server.pid).children(True))
    ]
    assert psavlm("down", cwd=town)["stopped"] == ["worker", "prefect", "ray", "mlflow"]
    assert lingering(family, 5) == []
    assert servers(town) == {}
    assert psavlm("down", cwd=town)["stopped"] == []


def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    home = project(tmp_path)
    port = int(settings(home)["PSAVLM_MLFLOW_PORT"])
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        done = command("psavlm", "up", cwd=home)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"ConfigError: port {port} of the MLflow page is taken")
    assert "set PSAVLM_MLFLOW_PORT=" in line
    assert servers(home) == {}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("PSAVLM_RAY_PORT=many", "PSAVLM_RAY_PORT=many is no port"),
        ("PSAVLM_RAY_PORT=80", "PSAVLM_RAY_PORT=80 is no port"),
        ("PREFECT_API_URL=https://example.com/api", "is not on this machine"),
    ],
)
def test_a_setting_that_names_no_port_here_is_told(tmp_path: Path, setting: str, said: str) -> None:
    (project(tmp_path) / ".env").write_text(setting)
    done = command("psavlm", "up", cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_up_outside_of_a_project_is_told(tmp_path: Path) -> None:
    done = command("psavlm", "up", cwd=tmp_path)
    assert done.returncode == 2
    assert "no prefect.yaml" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_environment_counts_before_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "pyproject.toml").write_text('[tool.prefect.api]\nurl = "http://a/api"\n')
    assert prefect_url(tmp_path, settings(tmp_path)) == "http://a/api"
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://b/api"\n')
    assert prefect_url(tmp_path, settings(tmp_path)) == "http://b/api"
    (tmp_path / ".env").write_text("PREFECT_API_URL=http://c/api")
    assert prefect_url(tmp_path, settings(tmp_path)) == "http://c/api"
    monkeypatch.setenv("PREFECT_API_URL", "http://d/api")
    assert prefect_url(tmp_path, settings(tmp_path)) == "http://d/api"


def test_a_used_pid_is_not_the_process_that_had_it() -> None:
    own = os.getpid()
    assert alive(own, started(own))
    assert not alive(own, started(1))


def on_record(home: Path, *, pid: int, since: str) -> None:
    (home / FOLDER).mkdir(parents=True, exist_ok=True)
    told = {"title": "MLflow page", "page": "", "command": (), "log": "", "ports": {"mlflow": 5000}}
    write(home, Server(name="mlflow", pid=pid, started=since, **told))


def up_to_its_sweep(home: Path) -> None:
    """`up` ends at a port that is taken, after it has looked for what dead servers left."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(settings(home)["PSAVLM_MLFLOW_PORT"])))
        other.listen()
        assert command("psavlm", "up", cwd=home).returncode == 2


def test_a_session_that_has_a_dead_servers_number_is_left_alone(
    tmp_path: Path, sleeper: Callable[..., subprocess.Popen]
) -> None:
    home = project(tmp_path)
    stranger = sleeper(**{HOME_VARIABLE: str(home)})
    boot = started(stranger.pid).split()[0]
    on_record(home, pid=stranger.pid, since=f"{boot} 1")
    up_to_its_sweep(home)
    assert stranger.poll() is None
    assert psavlm("down", cwd=home)["stopped"] == ["mlflow"]
    assert stranger.poll() is None
    assert servers(home) == {}


@pytest.mark.parametrize(
    ("own_home", "own_boot", "lives"),
    [(True, True, False), (False, True, True), (True, False, True)],
    ids=["its-own", "of-no-project", "of-an-earlier-boot"],
)
def test_what_is_left_of_a_dead_servers_session_is_ended(
    tmp_path: Path, own_home: bool, own_boot: bool, lives: bool
) -> None:
    home = project(tmp_path)
    variables = {HOME_VARIABLE: str(home)} if own_home else {}
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 600 >&- & echo $!; read line"],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    left = int(leader.stdout.readline())
    born, since = started(left), started(leader.pid)
    on_record(home, pid=leader.pid, since=since if own_boot else f"another-boot {since.split()[1]}")
    leader.communicate("")
    try:
        up_to_its_sweep(home)
        assert alive(left, born) == lives
    finally:
        if alive(left, born):
            os.kill(left, signal.SIGKILL)


def run_on(bare: str, *, state: str, pid: str = "") -> dict:
    flow = ask(f"{bare}/flows/", {"name": "psavlm"})["id"]
    body = {"flow_id": flow, "state": {"type": state}}
    run = ask(f"{bare}/flow_runs/", body)
    if pid:
        note_pid(bare, run, pid)
    return run


def note_pid(bare: str, run: dict, pid: str) -> None:
    ask(f"{bare}/flow_runs/{run['id']}", {"infrastructure_pid": pid}, method="PATCH")


def test_a_run_that_is_to_be_cancelled_is_ended_if_its_worker_is_lost(
    bare: str, sleeper: Callable[..., subprocess.Popen]
) -> None:
    run = run_on(bare, state="CANCELLING")
    process = sleeper(**{RUN_ID: run["id"]})
    note_pid(bare, run, str(process.pid))
    # This process started it: a living worker ends its runs itself.
    assert end_orphans(bare, worker=os.getpid()) == {}
    assert process.poll() is None
    assert end_orphans(bare, worker=None) == {run["name"]: "Cancelled"}
    assert process.wait(10) < 0
    assert ask(f"{bare}/flow_runs/{run['id']}")["state"]["type"] == "CANCELLED"


def test_runs_of_another_machine_are_left_alone(bare: str) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    hosts = ("elsewhere.example", socket.gethostname())
    far, near = [run_on(bare, state="RUNNING", pid=f"{host}:{gone.pid}") for host in hosts]
    assert end_orphans(bare, worker=None) == {near["name"]: "Crashed"}
    assert ask(f"{bare}/flow_runs/{far['id']}")["state"]["type"] == "RUNNING"


def test_the_automation_is_put_right_where_it_was_changed_or_deleted(bare: str) -> None:
    def there() -> list[dict]:
        return ask(f"{bare}/automations/filter", {})

    ensure_automation(bare)
    (first,) = there()
    ensure_automation(bare)
    assert there() == [first]
    changed = {**ZOMBIES, "trigger": {**ZOMBIES["trigger"], "within": 600}, "enabled": False}
    ask(f"{bare}/automations/{first['id']}", changed, method="PUT")
    ensure_automation(bare)
    (second,) = there()
    assert second["trigger"]["within"] == first["trigger"]["within"]
    assert second["id"] == first["id"] and not second["enabled"]
    ask(f"{bare}/automations/{first['id']}", method="DELETE")
    ensure_automation(bare)
    assert [automation["name"] for automation in there()] == [ZOMBIES["name"]]


def test_keys_come_from_a_block_of_the_prefect_server(
    bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect_aws import AwsClientParameters, AwsCredentials

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("PREFECT_API_URL", bare)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # what the block sets goes with the test
    with temporary_settings({PREFECT_API_URL: bare}):
        there = AwsClientParameters(endpoint_url="http://127.0.0.1:1")
        keys = {"aws_access_key_id": "AKIATEAM", "aws_secret_access_key": "the-secret-of-the-team"}
        block = AwsCredentials(**keys, region_name="eu-west-1", aws_client_parameters=there)
        block.save("team")
        monkeypatch.setenv(BLOCK, "nobody")
        with pytest.raises(ConfigError, match="no block of type AWS Credentials"):
            use_credentials()
        monkeypatch.setenv(BLOCK, "team")
        reach(".psavlm/store", "step/x")
        assert "AWS_ACCESS_KEY_ID" not in os.environ
        reach(".psavlm/store", "s3://bucket/root/step/x")  # as gc, verify, show, answer do
    assert {name: value for name, value in os.environ.items() if name.startswith("AWS_")} == {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": "AKIATEAM",
        "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-team",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }


@pytest.mark.slow
def test_keys_of_a_role_are_asked_for_again_before_they_end(
    bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect_aws import AwsClientParameters, AwsCredentials

    from infra.bucket import bucket

    with s3_server() as there, temporary_settings({PREFECT_API_URL: bare}):
        for name in ("AWS_CONFIG_FILE", "AWS_PROFILE", *there):
            # Set and taken away, so that what the block sets goes with the test.
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")
        monkeypatch.setenv("PREFECT_API_URL", bare)
        monkeypatch.setenv(BLOCK, "role")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", there["AWS_ENDPOINT_URL"])
        block = AwsCredentials(
            aws_access_key_id="AKIATEAM",
            aws_secret_access_key="the-secret-of-the-team",
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=there["AWS_ENDPOINT_URL"]),
            assume_role_arn="arn:aws:iam::123456789012:role/trainer",
            assume_role_kwargs={"DurationSeconds": 900},  # so short that AWS's tools renew at once
        )
        block.save("role")
        use_credentials()
        told = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        assert "the-secret-of-the-team" not in str(told) and "AWS_ACCESS_KEY_ID" not in told
        assert "the-secret-of-the-team" not in Path(told["AWS_CONFIG_FILE"]).read_text()
        use_credentials()  # as a process does that this one started
        assert os.environ["AWS_CONFIG_FILE"] == told["AWS_CONFIG_FILE"]
        files = bucket()
        files.pipe_file(f"{BUCKET}/one", b"1")
        found = files.session._credentials
        keys = [asyncio.run(found.get_frozen_credentials()).access_key for _ in range(2)]
        assert len({*keys}) == 2 and all(key.startswith("ASIA") for key in keys)
        files.pipe_file(f"{BUCKET}/two", b"2")


def test_one_deleted_deployment_of_several_is_missed(bare: str, tmp_path: Path) -> None:
    home = project(tmp_path)
    (home / FOLDER).mkdir(parents=True)
    ensure_pool(bare)
    deploy(home, bare, {**os.environ, "PREFECT_API_URL": bare, "PREFECT_HOME": str(tmp_path)})
    assert not stale(home, bare)
    (one, *_) = ask(f"{bare}/deployments/filter", {})
    ask(f"{bare}/deployments/{one['id']}", method="DELETE")
    assert stale(home, bare)


def test_a_temporary_server_goes_with_its_command_however_that_ends(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from infra.servers.temporary import temporary\n"
        "with temporary(Path(sys.argv[1])) as server:\n"
        "    server.wait(); print(server.process.pid, flush=True); time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=HOME,
        env={**os.environ, "PREFECT_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    server = psutil.Process(int(owner.stdout.readline()))
    started = [server, *server.children(recursive=True)]
    assert len(started) > 1
    owner.kill()
    owner.wait()
    assert lingering(started, 60) == []
