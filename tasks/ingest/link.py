"""The parent's side of the process that speaks to a Ray cluster (tasks/ingest/driver.py)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pyarrow as pa

from infra.places import is_remote
from schemas import errors
from schemas.errors import PsavlmError
from tasks.ingest.driver import gone
from tasks.ingest.loading import Loading
from tasks.ingest.worker import ASKED

HOME = Path(__file__).parents[2]
# By -m it would be imported twice: this package's own imports lead to it.
DRIVER = "from tasks.ingest.driver import main; main()"
# Seconds that it may take to say good-bye to the cluster.
LEAVE_S = 30
# What reading from and writing to a process that has ended raises.
BROKEN = (OSError, pa.ArrowException, StopIteration)


class Link:
    """One driver; blocks go in, answers come out in the same order.

    Attributes:
        cpus: how many the cluster has.
    """

    def __init__(self, address: str) -> None:
        above = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._words = TemporaryFile()  # noqa: SIM115 - closed with the link
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-W",
                "ignore",
                "-c",
                DRIVER,
                f"{self._words.fileno()}",
                address,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(above)},
            pass_fds=[self._words.fileno()],
        )
        self._asked: Any = None
        self._answers: Any = None
        line = self._process.stdout.readline()
        if not line:
            raise self._end()
        self.cpus = int(line)

    def begin(self, loading: Loading) -> None:
        """Send what does not change from chunk to chunk."""
        # A worker's own folder is another one: what is meant is said in full.
        folder = loading.folder
        if folder and not is_remote(folder):
            folder = os.path.abspath(folder)
        config = loading.config.model_dump(mode="json")
        ids = loading.spool.library.ids().tobytes()
        self._asked = pa.ipc.new_stream(self._process.stdin, ASKED)
        self.ask([{"path": json.dumps({"folder": folder, "config": config}), "data": ids}])

    def ask(self, rows: list[dict[str, Any]]) -> None:
        """Send a block of ASKED; none closes a chunk, whose answers can be read then.

        Raises:
            PsavlmError: what the driver met; ServerError if the cluster went away.
        """
        try:
            self._asked.write_batch(pa.RecordBatch.from_pylist(rows, ASKED))
            self._process.stdin.flush()
        except BROKEN:
            raise self._end() from None

    def answers(self) -> Iterator[dict[str, Any]]:
        """Rows of ANSWERED, one by one; errors as in `ask`."""
        while True:
            try:
                if self._answers is None:
                    self._answers = pa.ipc.open_stream(self._process.stdout)
                batch = self._answers.read_next_batch()
            except BROKEN:
                raise self._end() from None
            yield from batch.to_pylist()

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let it end; after an error end it, for it may be in mid-work."""
        if kind:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._words.close()

    def _end(self) -> PsavlmError:
        """Why it has ended."""
        status = self._process.wait()
        self._words.seek(0)
        if words := self._words.read():
            told = json.loads(words)
            return getattr(errors, told["error"])(told["detail"])
        return gone(f"its driver ended with {status}")
