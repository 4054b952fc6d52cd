"""`psavlm doctor`: each check says fine or what to do, on machines that it is told of."""

import json
import os
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from infra.doctor import machine, services
from infra.port import spare_port
from infra.servers.specs import MLFLOW, SPECS
from infra.servers.state import FOLDER
from tests.s3_server import BUCKET, s3_server

PSAVLM = str(Path(sys.executable).with_name("psavlm"))
Room = namedtuple("Room", "free")
Memory = namedtuple("Memory", "available")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose servers would have free ports."""
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{spare_port()}/api")
    for name in ("MLFLOW", "RAY", "RAY_DASHBOARD"):
        monkeypatch.setenv(f"PSAVLM_{name}_PORT", str(spare_port()))
    return tmp_path


def doctor(cwd: Path, *words: str) -> tuple[int, dict]:
    done = subprocess.run(
        [PSAVLM, "doctor", *words, "--json"], cwd=cwd, capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout)


def test_a_healthy_machine_is_all_green_and_yellow(home: Path) -> None:
    code, checks = doctor(home)
    assert code == 0, checks
    assert list(checks) == [
        "python", "lock", "disk", "memory", "cores", "gpu", "root", "registry", "ports",
        "prefect server", "ray head", "mlflow page", "prefect worker",
    ]  # fmt: skip
    assert all(check["remedy"] or check["state"] == "ok" for check in checks.values())
    assert list(home.iterdir()) == []


def test_a_red_line_says_what_to_do_and_the_command_fails(home: Path) -> None:
    (home / "file").touch()
    code, checks = doctor(home, "--root", str(home / "file/store"))
    assert code == 1
    assert checks["root"]["state"] == "fail"
    assert checks["root"]["remedy"] == "give another root, or make it writable"
    done = subprocess.run(
        [PSAVLM, "doctor", "--root", str(home / "file/store")],
        cwd=home, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("fail")]
    assert line.endswith("-> give another root, or make it writable")


def test_versions_that_differ_from_the_lock_are_named(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("# exact\npsutil==0.1\nnobody-has-this==1.0\n")
    check = machine.lock(tmp_path)
    assert check.state == "fail"
    assert check.said.startswith("psutil ") and check.said.endswith(" for 0.1")
    assert "make install" in check.remedy


def test_installed_versions_equal_the_lock_up_to_their_local_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "version", lambda name: "2.13.0+cpu")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    assert machine.lock(tmp_path).state == "ok"


@pytest.mark.parametrize(("free", "state"), [(1, "fail"), (5, "warn"), (50, "ok")])
def test_room_on_disk_and_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, state: str
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Room(free * machine.GB))
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: Memory(free * machine.GB))
    assert machine.disk(tmp_path, ".psavlm/store").state == state
    assert machine.memory().state == state


def test_the_disk_is_that_of_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big").mkdir()
    roomy = {tmp_path / "big": 50, tmp_path: 1}
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Room(roomy[path] * machine.GB))
    for root, free in (("store", 1), ("big/a/store", 50), (f"{tmp_path}/big", 50), ("s3://b/x", 1)):
        assert machine.disk(tmp_path, root).said == f"{free} GB free"


def test_a_registry_that_does_not_answer_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@127.0.0.1:{spare_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # its pauses are another test's
    check = services.registry()
    assert (check.state, check.remedy) == (
        "fail", "check that it is up (make up) and MLFLOW_TRACKING_URI"
    )  # fmt: skip
    assert "secret" not in check.said
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert services.registry().state == "ok"


@pytest.mark.parametrize(
    ("script", "state", "said"),
    [
        ("echo 'NVIDIA H200, 143771 MiB'", "ok", "NVIDIA H200, 143771 MiB"),
        ("echo 'no devices were found' >&2; exit 6", "fail", "nvidia-smi fails: no devices were"),
        (None, "warn", "none"),
    ],
)
def test_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, state: str, said: str
) -> None:
    if script:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = machine.gpu()
    assert (check.state, check.said[: len(said)]) == (state, said)


def test_the_conditional_put_of_a_bucket_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        check = services.root_folder(f"s3://{BUCKET}/store")
        assert (check.state, "conditional put holds" in check.said) == ("ok", True)
        missing = services.root_folder("s3://no-such-bucket/store")
        assert missing.state == "fail"


def test_a_taken_port_names_its_server_and_its_setting(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(os.environ["PSAVLM_MLFLOW_PORT"])))
        other.listen()
        check = services.ports(home)
    assert check.state == "fail"
    assert "MLflow page" in check.said
    assert "PSAVLM_MLFLOW_PORT=" in check.remedy
    assert services.ports(home).state == "ok"


def test_a_dead_server_is_red_and_one_never_started_is_not(home: Path) -> None:
    assert {services.running(spec, home).state for spec in SPECS} == {"warn"}
    (home / FOLDER).mkdir(parents=True)
    record = {
        "name": "mlflow", "title": "MLflow page", "pid": 2**22 + 1, "started": "", "page": "",
        "ports": {"mlflow": 5000}, "command": [], "log": "log",
    }  # fmt: skip
    (home / FOLDER / "mlflow.json").write_text(json.dumps(record))
    check = services.running(MLFLOW, home)
    assert (check.state, check.remedy) == ("fail", "run: psavlm up")
