"""A Prefect server for one command: flows need an API, and nobody has started one."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.port import spare_port
from infra.servers import watched
from infra.servers.ask import ask
from infra.servers.health import SILENT
from schemas.errors import ServerError

PATIENCE_S = 180.0
HOST = "127.0.0.1"
# It has no deployments of its own; runs that are scheduled wait for `psavlm up`.
SERVICES_OFF = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
}


class Temporary:
    """A starting server: where it will answer, and its process."""

    def __init__(self, log: Path) -> None:
        self.log = log
        port = spare_port()
        self.url = f"http://{HOST}:{port}/api"
        prefect = [sys.executable, "-m", "prefect", "server", "start", "--no-ui"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, watched.__file__, *prefect, "--host", HOST, "--port", str(port)],
                env={**os.environ, **SERVICES_OFF, "PREFECT_API_URL": self.url},
                stdin=subprocess.PIPE,  # closed when this process is gone, however it went
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the flow, which then tells the server how it ended.
                start_new_session=True,
            )

    def wait(self) -> None:
        """Return when it answers; ServerError if it does not."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                ask(f"{self.url}/health")
            except SILENT:
                time.sleep(0.1)
            else:
                return
        raise ServerError(f"Prefect's temporary server does not come up: see {self.log}")


@contextmanager
def temporary(home: Path) -> Iterator[Temporary]:
    """Start a server whose files lie in Prefect's `home`; stop it at the end."""
    server = Temporary(home / "temporary.log")
    try:
        yield server
    finally:
        server.process.communicate()
