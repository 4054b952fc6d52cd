"""What is known of a started server: `.psavlm/servers/<name>.json`, believed while it lives."""

import os
from pathlib import Path

from pydantic import ValidationError

from infra.process import alive
from infra.servers.specs import SPECS
from schemas.frozen import Frozen

FOLDER = Path(".psavlm/servers")


class Server(Frozen):
    """A started process.

    Attributes:
        name: the server's name in `infra.servers.specs`.
        title: what people call it.
        pid: the process, which leads a session of its own.
        started: see `infra.process.started`.
        ports: by name.
        page: its address; "" for the worker.
        command: the arguments.
        log: the file that holds its output.
    """

    name: str
    title: str
    pid: int
    started: str
    ports: dict[str, int]
    page: str
    command: tuple[str, ...]
    log: str

    def alive(self) -> bool:
        """Whether this very process is still there."""
        return alive(self.pid, self.started)


def servers(root: Path) -> dict[str, Server]:
    """The servers that a project's folder has on record, dead ones too, in order of starting."""
    found = {spec.name: _read(root / FOLDER / f"{spec.name}.json") for spec in SPECS}
    return {name: server for name, server in found.items() if server is not None}


def addresses(root: Path = Path()) -> dict[str, str]:
    """Name -> address of every living server with a page; `cluster` is the Ray head's host:port."""
    living = [server for server in servers(root).values() if server.alive()]
    pages = {server.name: server.page for server in living if server.page}
    for server in living:
        if server.name == "ray":
            pages["cluster"] = f"127.0.0.1:{server.ports['ray_head']}"
    return pages


def write(root: Path, server: Server) -> None:
    """Put a server on record, in one act."""
    path = root / FOLDER / f"{server.name}.json"
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(server.model_dump_json(indent=2), encoding="utf-8")
    draft.replace(path)


def forget(root: Path, name: str) -> None:
    """Take a server off the record."""
    (root / FOLDER / f"{name}.json").unlink(missing_ok=True)


def _read(path: Path) -> Server | None:
    try:
        return Server.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):  # an older version's file says nothing
        return None
