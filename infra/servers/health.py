"""Whether a server does its work: asked over HTTP, within seconds, without its library."""

import http.client
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from infra.servers.ask import ask
from infra.servers.specs import POOL
from infra.servers.state import Server, servers

# A server that is just starting may also close the connection in mid answer.
SILENT = (OSError, http.client.HTTPException)


PATIENCE_S = 5.0


def healthy(server: Server, root: Path, *, since: float = 0.0) -> bool:
    """Whether a server answers as it should.

    Args:
        server: which.
        root: the project's folder.
        since: seconds since 1970; a worker must have been heard of after that.
    """
    try:
        return _HEALTH[server.name](server, root, since)
    except SILENT:
        return False


def listens(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def api(root: Path) -> str:
    """The address of the project's own Prefect API; "" if its server is not on record."""
    server = servers(root).get("prefect")
    return f"{server.page}/api" if server else ""


def _prefect(server: Server, _root: Path, _since: float) -> bool:
    return bool(ask(f"{server.page}/api/health", patience=PATIENCE_S))


def _mlflow(server: Server, _root: Path, _since: float) -> bool:
    return bool(ask(f"{server.page}/health", patience=PATIENCE_S) == "OK")


def _ray(server: Server, root: Path, _since: float) -> bool:
    """The head's memory answers, and the machine has joined as a node."""
    if not listens("127.0.0.1", server.ports["ray_head"]):
        return False
    if ask(f"{server.page}/api/gcs_healthz", patience=PATIENCE_S) != "success":
        return False
    token = (root / ".psavlm/ray-token").read_text(encoding="utf-8").strip()
    nodes = ask(f"{server.page}/nodes?view=summary", token=token, patience=PATIENCE_S)
    return bool(nodes["data"]["summary"])


def _worker(_server: Server, root: Path, since: float) -> bool:
    known = ask(f"{api(root)}/work_pools/{POOL}/workers/filter", {}, patience=PATIENCE_S)
    return any(
        worker["status"] == "ONLINE"
        and datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() >= since
        for worker in known
    )


_HEALTH: dict[str, Callable[[Server, Path, float], bool]] = {
    "prefect": _prefect,
    "ray": _ray,
    "mlflow": _mlflow,
    "worker": _worker,
}
