"""`psavlm up` and `down` in a folder of their own: real servers on free ports, killed and taken."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.cli.settings import connect
from infra.process import alive, started
from infra.servers.ask import ask
from infra.servers.health import healthy
from infra.servers.settings import prefect_url, settings
from infra.servers.state import addresses, servers
from tests.town import HOME, command, project, psavlm

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
    assert {deployment["name"] for deployment in found} == {"full-pipeline", "ratio-sweep"}
    for deployment in found:
        assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
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


def test_down_stops_all_and_leaves_no_process(town: Path) -> None:
    known = servers(town).values()
    family = [
        process
        for server in known
        for process in (psutil.Process(server.pid), *psutil.Process(server.pid).children(True))
    ]
    assert psavlm("down", cwd=town)["stopped"] == ["worker", "prefect", "ray", "mlflow"]
    assert [process for process in family if process.is_running()] == []
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
