"""A command as a job of a cluster elsewhere: submitted or rejoined, followed, stopped, judged.

Of a job's ids, `<key>-<attempt>`, one may be running: it is rejoined, so that a command that is
given twice does its work once. Ray takes no id a second time: behind an ended one comes the next.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from infra.ray_client import TOO_FAR_S, connect, passing, troubles
from infra.ray_log import Tail, failure
from schemas.errors import StoppedError, TrainingError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_S = 1.0
TRIES = 3
# How long a job may take to write its last checkpoint; more than a training gives itself.
STOP_S = 125
Answer = TypeVar("Answer")
Tell = Callable[[str], None]
# One for each job that this process waits for.
_ends: set[threading.Event] = set()


@dataclass(frozen=True)
class Order:
    """What is submitted.

    Attributes:
        key: the same for the same work; the first part of the job's id.
        command: typed on the head, in a folder with the code.
        code: a zip of it.
        variables: settings for the job and its workers; everybody who may ask the cluster sees
            them, so that none may be secret.
    """

    key: str
    command: str
    code: Path
    variables: dict[str, str] = field(default_factory=dict)


def run_job(address: str, order: Order, *, tell: Tell) -> None:
    """Have a job done; returns when it has succeeded.

    Args:
        address: of the cluster's jobs API.
        order: what to do.
        tell: takes the lines of its log.

    Raises:
        ConfigError: no jobs API there, it refuses the token, or it runs another Ray.
        StoppedError: the job was stopped.
        TrainingError: it failed, or nobody has answered for TOO_FAR_S.
        PsavlmError: what it told as its own.
    """
    Submission(address, connect(address), tell).run(order)


def end_all() -> None:
    """Stop the jobs that other threads of this process wait for; those raise StoppedError."""
    for end in list(_ends):
        end.set()


@dataclass(frozen=True)
class Submission:
    """One order at one cluster."""

    address: str
    client: "JobSubmissionClient"
    tell: Tell

    def run(self, order: Order) -> None:
        """As `run_job`; whatever ends the waiting, but a cluster out of reach, stops the job."""
        end = threading.Event()
        _ends.add(end)
        try:
            name = self._submitted(order)
            with self._followed(name):
                try:
                    details = self._ended(name, end)
                except BaseException:
                    self._stop(name)
                    raise
        finally:
            _ends.discard(end)
        self._judge(name, details)

    def _submitted(self, order: Order) -> str:
        """The id of the job, which may be running already."""
        environment = {
            "working_dir": str(order.code),
            "env_vars": {**order.variables, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)},
        }
        for left in reversed(range(TRIES)):
            known = {job.submission_id: job for job in self._sure(self.client.list_jobs)}
            names = (f"{order.key}-{attempt}" for attempt in count(1))
            name = next(n for n in names if n not in known or not known[n].status.is_terminal())
            if name in known:
                self.tell(f"job {name} is running already; rejoined")
                return name
            try:
                self.client.submit_job(
                    entrypoint=order.command, submission_id=name, runtime_env=environment
                )
                break
            except troubles() as error:
                # Another one may have been quicker, or only the answer was lost: look again.
                if not left:
                    raise TrainingError(
                        f"the cluster at {self.address} does not take the job: {_line(error)}"
                    ) from error
            except BaseException:  # a signal, while it was on its way
                self._stop(name)
                raise
        self.tell(f"submitted as job {name}")
        return name

    def _ended(self, name: str, end: threading.Event) -> "JobDetails | None":
        """How the job ended; None if the cluster does not answer any more."""
        while True:
            details = self._patiently(lambda: self.client.get_job_info(name))
            if details is None or details.status.is_terminal():
                return details
            if end.wait(POLL_S):
                raise StoppedError(f"job {name} was asked to end; the same command goes on")

    @contextlib.contextmanager
    def _followed(self, name: str) -> Iterator[None]:
        tail = Tail(self.client, name, self.tell)
        tail.start()
        try:
            yield
        finally:
            tail.end()

    def _stop(self, name: str) -> None:
        self.tell(f"asked to end; waiting for job {name} to write its checkpoint")
        deadline = time.monotonic() + STOP_S
        with contextlib.suppress(*troubles()):
            self.client.stop_job(name)
            while time.monotonic() < deadline:
                if self.client.get_job_info(name).status.is_terminal():
                    return
                time.sleep(POLL_S)

    def _judge(self, name: str, details: "JobDetails | None") -> None:
        """Raise what a job that has not succeeded means."""
        where = f"ray job logs {name} --address {self.address}"
        if details is None:
            raise TrainingError(
                f"the cluster at {self.address} has not answered for {TOO_FAR_S / 60:.0f} minutes; "
                f"job {name} may go on there, and the same command rejoins it"
            )
        if details.status.value == "STOPPED":
            raise StoppedError(
                f"job {name} was stopped on the cluster: the same command goes on from its last "
                f"checkpoint (log: {where})"
            )
        if details.status.value == "FAILED":
            log = self._patiently(lambda: self.client.get_job_logs(name)) or ""
            raise failure(log, details.message or "", where=where)

    def _sure(self, call: Callable[[], Answer]) -> Answer:
        """An answer; TrainingError where none comes."""
        answer = self._patiently(call)
        if answer is None:
            raise TrainingError(f"the cluster at {self.address} does not answer any more")
        return answer

    def _patiently(self, call: Callable[[], Answer]) -> Answer | None:
        """An answer, asked for again and again while the connection is down; None if too long."""
        since = time.monotonic()
        while True:
            try:
                return call()
            except troubles() as error:
                if not passing(error):
                    raise TrainingError(
                        f"the cluster at {self.address} does not know the job any more, or refuses "
                        f"to tell ({_line(error)}): the same command submits it again"
                    ) from error
            if time.monotonic() - since > TOO_FAR_S:
                return None
            time.sleep(POLL_S)


def _line(error: Any) -> str:
    return re.sub(r"\s+", " ", str(error))[:300]
