"""A process that ends at one of its acts: on the disk, in a bucket, in a database; by SIGKILL.

An act is counted before it is done, so that "after" one is "before" the next. Of a file that Python
writes three moments count: before it is there, while it is empty, and when its first piece is
written by half; of a Parquet file, which Arrow writes, those around each of its calls; of a request
to a bucket and of a call of the registry, before and after.
"""

import builtins
import functools
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit event -> where in its arguments a path and the folder that it is relative to are.
ACTS = {
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
}
CALLS = (
    "create_experiment", "create_run", "log_batch", "log_text", "log_artifact", "set_terminated",
    "set_tag", "create_registered_model", "create_model_version", "delete_model_version",
    "set_model_version_tag", "set_registered_model_alias", "delete_registered_model_alias",
)  # fmt: skip
_HEX = re.compile(r"[0-9a-f]{24,64}")
_open = io.open


class Fate:
    """Counts the acts of this process below some folders; it dies at the one of number `at`."""

    def __init__(self, folders: list[Path], *, at: int, log: Path) -> None:
        self._folders = [f"{folder}/" for folder in folders]
        self._at = at
        self._numbers = itertools.count(1)  # one step of it is atomic, whatever thread takes it
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def meet(self, act: str, what: str) -> None:
        """Count one act, or die."""
        number = next(self._numbers)
        os.write(self._log, f"{act} {_HEX.sub('*', what)}\n".encode())
        if number == self._at:
            os.kill(os.getpid(), signal.SIGKILL)

    def place(self, path: Any, folder: int | None = -1) -> str | None:
        """The path below the watched folders; None if it is not there."""
        if isinstance(path, int):
            found = os.readlink(f"/proc/self/fd/{path}")
        elif isinstance(path, str | bytes | os.PathLike):
            base = os.readlink(f"/proc/self/fd/{folder}") if folder not in (-1, None) else ""
            found = os.path.abspath(os.path.join(base, os.fsdecode(path)))
        else:  # a file that lies in memory
            return None
        for watched in self._folders:
            if found.startswith(watched) or f"{found}/" == watched:
                return found.removeprefix(watched)
        return None

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook: acts by Python's own functions, those of its libraries among them."""
        if event == "open":
            path, _, flags = args
            if flags & WRITING and (place := self.place(path)) is not None:
                self.meet("create", place)
            return
        for path, folder in ACTS.get(event, ()):
            place = self.place(args[path], -1 if folder is None else args[folder])
            if place is not None:
                self.meet(event, place)
                return


class Torn(io.BufferedWriter):
    """A file whose first piece is written in two halves."""

    def __init__(self, raw: io.RawIOBase, halved: Callable[[], None]) -> None:
        super().__init__(raw)
        self._halved: Callable[[], None] | None = halved

    def write(self, data: Any) -> int:
        """Write, and stop at the half of the first piece."""
        view = memoryview(data).cast("B")
        half = len(view) // 2 if self._halved else 0
        if half and self._halved:
            halved, self._halved = self._halved, None
            super().write(view[:half])
            self.flush()
            halved()
        super().write(view[half:])
        return len(view)


def arm(folders: list[Path], *, at: int, log: Path, also: Collection[str] = ()) -> None:
    """Let this process die at an act; it cannot be undone.

    Args:
        folders: what is watched.
        at: the number of the act, from 1; 0 lets it live.
        log: gets a line for each act.
        also: `bucket` for requests of s3fs, `registry` for MLflow's calls and its database.
    """
    fate = Fate(folders, at=at, log=log)
    _watch_opened(fate)
    _watch_parquet(fate)
    if "bucket" in also:
        _watch_bucket(fate)
    if "registry" in also:
        _watch_registry(fate)
    sys.addaudithook(fate.heard)


def _watch_opened(fate: Fate) -> None:
    """Files that are open and still empty, or half full; no audit event tells of them."""

    @functools.wraps(_open)
    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        made = _open(file, mode, *args, **kwargs)
        place = fate.place(file) if set(mode) & set("wxa+") else None
        if place is None:
            return made
        fate.meet("fill", place)
        halved = functools.partial(fate.meet, "half", place)
        if isinstance(made, io.BufferedWriter):
            return Torn(made.detach(), halved)
        if isinstance(made, io.TextIOWrapper) and "+" not in mode:
            text = {"encoding": made.encoding, "errors": made.errors}
            buffered = made.detach()
            return io.TextIOWrapper(Torn(buffered.detach(), halved), newline="", **text)
        return made

    io.open = builtins.open = opened


def _watch_parquet(fate: Fate) -> None:
    import pyarrow.parquet as pq

    def around(name: str) -> None:
        act = getattr(pq.ParquetWriter, name)

        @functools.wraps(act)
        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            if name == "__init__":
                self._place = fate.place(args[0])
            place = self._place
            if place is not None and (name != "close" or self.is_open):
                fate.meet(f"Parquet {name.strip('_')}", place)
            return act(self, *args, **kwargs)

        setattr(pq.ParquetWriter, name, watched)

    for name in ("__init__", "write_table", "close"):
        around(name)


def _watch_bucket(fate: Fate) -> None:
    from aiobotocore.httpsession import AIOHTTPSession

    send = AIOHTTPSession.send

    async def watched(self: Any, request: Any) -> Any:
        changes = request.method in ("PUT", "POST", "DELETE")
        if changes:
            fate.meet(f"before {request.method}", request.url)
        answer = await send(self, request)
        if changes:
            fate.meet(f"after {request.method}", request.url)
        return answer

    AIOHTTPSession.send = watched


def _watch_registry(fate: Fate) -> None:
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def around(name: str) -> None:
        act = getattr(MlflowClient, name)

        @functools.wraps(act)
        def watched(*args: Any, **kwargs: Any) -> Any:
            fate.meet("before call", name)
            result = act(*args, **kwargs)
            fate.meet("after call", name)
            return result

        setattr(MlflowClient, name, watched)

    for name in CALLS:
        around(name)

    def wrote(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
            connection.info["changed"] = True

    def commits(connection: Any) -> None:
        if connection.info.pop("changed", False):
            fate.meet("commit", "database")

    event.listen(Engine, "before_cursor_execute", wrote)
    event.listen(Engine, "commit", commits)
