"""The log of a job elsewhere: followed line by line, and read for the error that it ends with."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from schemas import errors
from schemas.errors import PsavlmError, TrainingError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

AGAIN_S = 2.0
# How long the last lines may take after the job's end.
LAST_S = 5.0
LINES = 8
# A job of ours ends with its error as such a line.
_ERROR = '{"error":'


def error_line(name: str, text: str) -> str:
    """The line by which a job tells how it ended, to be found by `failure`."""
    return json.dumps({"error": name, "message": text})


class Tail(threading.Thread):
    """Tells each line once, also where the connection broke in between."""

    def __init__(
        self, client: "JobSubmissionClient", name: str, tell: Callable[[str], None]
    ) -> None:
        super().__init__(daemon=True)
        self.client, self.job, self.tell = client, name, tell
        self.seen = 0
        self.rest = ""
        self.over = threading.Event()

    def run(self) -> None:
        """Follow to the job's end, or until `end`."""
        from aiohttp import ClientError

        while not self.over.is_set():
            try:
                asyncio.run(self._follow())
                return
            except (ClientError, RuntimeError, OSError):
                self.over.wait(AGAIN_S)

    def end(self) -> None:
        """Tell the last lines, as far as they come in time."""
        self.join(LAST_S)
        self.over.set()

    async def _follow(self) -> None:
        """Ray begins at the log's first line each time."""
        position = 0
        async for text in self.client.tail_job_logs(self.job):
            if self.over.is_set():
                return
            fresh = text[max(0, self.seen - position) :]
            position += len(text)
            self.seen = max(self.seen, position)
            *lines, self.rest = (self.rest + fresh).split("\n")
            for line in lines:
                if line and not line.startswith(_ERROR):
                    self.tell(line)


def failure(log: str, message: str, *, where: str) -> PsavlmError:
    """The error that a failed job stands for.

    Args:
        log: all that it wrote.
        message: Ray's own words about its end.
        where: how to see the log.

    Returns:
        What the job told as its own error, of the same class; else a TrainingError with its last
        lines.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith(_ERROR):
            told = json.loads(line)
            kind = getattr(errors, told["error"])
            error: PsavlmError = kind(f"on the cluster: {told['message']} (log: {where})")
            return error
    last = " | ".join(lines[-LINES:] or message.split("\n")[-LINES:])
    return TrainingError(f"the job failed; its last lines: {last} (log: {where})")
