"""Progress of a long step: a bar on a terminal, else a line every few seconds; always on stderr.

Inside a Prefect task it is also a progress artifact on the run's page.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0
# An update is a request to the server and two lines of `--watch`: seldom enough for both.
PAGE_EVERY_S = 15.0
Tick = Callable[[int, str], None]


def say(text: str) -> None:
    """One line for people, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def progress(title: str, total: int) -> Iterator[Tick]:
    """Yields `tick(done, note)`; `note` is a short text such as the loss."""
    on_page = _page(title, total)
    for tick in _bar(title, total) if sys.stderr.isatty() else _lines(title, total):

        def both(done: int, note: str, tick: Tick = tick) -> None:
            tick(done, note)
            on_page(done, note)

        yield both


def _bar(title: str, total: int) -> Iterator[Tick]:
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)


def _lines(title: str, total: int) -> Iterator[Tick]:
    last = time.monotonic()

    def tick(done: int, note: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            say(f"{title}  {done}/{total}  {note}")

    yield tick


def _page(title: str, total: int) -> Tick:
    """A progress artifact of the Prefect task that runs here; nothing outside of one."""
    # Where Prefect has not been imported no task can be running, and importing it takes seconds.
    if "prefect" not in sys.modules:
        return lambda done, note: None
    from httpx import HTTPError
    from prefect.artifacts import create_progress_artifact, update_progress_artifact
    from prefect.context import TaskRunContext

    if TaskRunContext.get() is None:
        return lambda done, note: None
    # Only for people to look at: a server that is away must not end the work.
    try:
        artifact = create_progress_artifact(progress=0.0, description=title)
    except HTTPError:
        return lambda done, note: None
    shown = time.monotonic()

    def tick(done: int, note: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PAGE_EVERY_S or done >= total:
            shown = time.monotonic()
            share = 100.0 * done / max(total, 1)
            with suppress(HTTPError):
                update_progress_artifact(artifact, share, description=f"{title}: {note}")

    return tick
