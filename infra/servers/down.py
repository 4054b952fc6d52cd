"""Stop every server of the project, and what its worker has started."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.servers.orphans import flow_processes
from infra.servers.run import end, stop
from infra.servers.specs import WORKER
from infra.servers.state import Server, servers
from infra.servers.up import locked


def down(root: Path, *, say: Callable[[str], None]) -> list[str]:
    """Stop the worker, then its flow runs, then the rest side by side; returns their names."""
    with locked(root):
        known = servers(root)
        worker = known.pop(WORKER.name, None)
        if worker is not None:
            _stop(root, worker, say)
        end(flow_processes(root))
        with ThreadPoolExecutor(len(known) or 1) as pool:
            list(pool.map(lambda server: _stop(root, server, say), known.values()))
        return [*([WORKER.name] if worker else []), *known]


def _stop(root: Path, server: Server, say: Callable[[str], None]) -> None:
    stop(root, server)
    say(f"{server.title} stopped")
