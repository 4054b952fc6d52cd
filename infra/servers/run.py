"""Start one process in a session of its own, and stop it with all that it started."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from infra.port import spare_port
from infra.process import left_session, started
from infra.servers.specs import Spec
from infra.servers.state import FOLDER, Server, forget, write

# Ray's head takes its time to end its workers.
PATIENCE_S = 30.0
LAST_WORDS_S = 5.0
POLL_S = 0.05
# Every server is told its project's folder, and tells it to what it starts.
HOME = "PSAVLM_HOME"


def start(
    spec: Spec, root: Path, *, ports: Mapping[str, int], environment: Mapping[str, str]
) -> Server:
    """Start a server that outlives this process and its terminal; put it on record."""
    words = {
        "python": sys.executable,
        "ray": Path(sys.executable).with_name("ray"),
        "home": root,
        "state": root / ".psavlm",
        "cpus": os.cpu_count() or 1,
        "spare": spare_port(),
        **ports,
    }
    command = tuple(word.format_map(words) for word in spec.command)
    log = root / FOLDER / f"{spec.name}.log"
    if log.exists():
        log.replace(log.with_suffix(".old.log"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(
        name=spec.name,
        title=spec.title,
        pid=process.pid,
        started=started(process.pid),
        ports=dict(ports),
        page=spec.page.format_map(words),
        command=command,
        log=str(log),
    )
    write(root, server)
    return server


def stop(root: Path, server: Server) -> None:
    """TERM, patience, then KILL: the server's own process, its children and its session."""
    if server.alive():
        members = family(server)
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, 15)
        lingering(members, PATIENCE_S)
        end(members)
    sweep(root, server)
    forget(root, server.name)


def sweep(root: Path, server: Server) -> None:
    """End what a dead server has left behind: the members of its session that know their project.

    The record survives a reboot, and its pid may by then be another session's.
    """
    if not server.alive() and left_session(server.pid, server.started):
        end(process for process in _session(server.pid) if _is_of(process, root))


def _is_of(process: psutil.Process, root: Path) -> bool:
    """Whether a member of a server's session was started for this project."""
    try:
        environment = process.environ()
    except psutil.Error:  # gone, or another user's
        return False
    # Some of Ray's processes write their titles over it; then the session alone says it.
    return not environment or environment.get(HOME) == str(root)


def descent(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it has started."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def family(server: Server) -> list[psutil.Process]:
    """A living server's process, all its descendants and all of its session."""
    try:
        own = descent(psutil.Process(server.pid))
    except psutil.NoSuchProcess:
        own = []
    return list({*own, *_session(server.pid)})


def end(members: Iterable[psutil.Process], *, patience: float = LAST_WORDS_S) -> None:
    """TERM who is still there, then KILL; psutil sees that a pid is not another process's now."""
    left = lingering(members, 0)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    stubborn = lingering(left, patience)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    lingering(stubborn, LAST_WORDS_S)


def lingering(members: Iterable[psutil.Process], patience: float) -> list[psutil.Process]:
    """Wait; return those that still live. A zombie does not: a container's first process may
    never ask for it.
    """
    deadline = time.monotonic() + patience
    while (left := [process for process in members if _lives(process)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(POLL_S)
    return left


def _session(leader: int) -> list[psutil.Process]:
    """The processes of a session; its leader's pid is not given away while one of them lives."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(pid) == leader:
                members.append(psutil.Process(pid))
    return members


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
