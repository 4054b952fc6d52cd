"""A Ray head in a Python that has all libraries and not this project, in a folder of its own."""

import os
import subprocess
import sysconfig
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.port import spare_port
from infra.ray_settings import own_settings
from infra.servers.ask import ask

UP_S, DOWN_S = 180.0, 60.0


@dataclass(frozen=True)
class Head:
    """Where its jobs API is, what a command must know to ask it, and where its logs are."""

    address: str
    settings: dict[str, str]
    logs: Path


def bare_python(folder: Path) -> Path:
    """An interpreter that sees the installed libraries, but no checkout.

    The project is installed by a .pth file; such a file counts in an interpreter's own folder only,
    and not in one that another .pth file adds.
    """
    venv.create(folder, symlinks=True)
    own = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(own) / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin" / "python"


@contextmanager
def bare_head(folder: Path, temporary: Path, more: Mapping[str, str]) -> Iterator[Head]:
    """Starts it; its jobs have `more` settings. Ray's sockets ask for a short temporary path."""
    python = bare_python(folder / "python")
    settings = own_settings(folder)
    page, work = spare_port(), folder / "work"
    work.mkdir()
    command = [
        str(python), "-m", "ray.scripts.scripts", "start", "--head", "--block",
        "--node-ip-address=127.0.0.1", f"--port={spare_port()}", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={page}", f"--ray-client-server-port={spare_port()}", "--num-cpus=2",
        "--disable-usage-stats", f"--temp-dir={temporary}",
    ]  # fmt: skip
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**kept, **settings, **more, "PATH": path, "PYTHONUNBUFFERED": "1"}
    head = subprocess.Popen(
        command, cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{page}"
        token = Path(settings["RAY_AUTH_TOKEN_PATH"]).read_text()
        wait_for(head, address, token)
        told = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": settings["RAY_AUTH_TOKEN_PATH"]}
        yield Head(address, told, temporary)
    finally:
        head.terminate()
        try:
            head.wait(DOWN_S)
        except subprocess.TimeoutExpired:
            head.kill()


def wait_for(head: subprocess.Popen, address: str, token: str) -> None:
    """Until its jobs API answers."""
    deadline = time.monotonic() + UP_S
    while time.monotonic() < deadline:
        assert head.poll() is None, "the head died"
        try:
            ask(f"{address}/api/jobs/", token=token)
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the head does not answer")
