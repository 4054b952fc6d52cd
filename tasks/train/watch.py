"""How far a run is: rank 0 writes a small file beside the checkpoints, the driver shows it."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context

from infra.faults import troubles
from infra.store import Store
from schemas.config import PartConfig, TrainConfig
from tasks.progress import progress
from tasks.train.job import Job

WRITE_EVERY_S = {True: 0.3, False: 5.0}  # by whether the root is local
POLL_S = 0.5


class Reporter:
    """Rank 0's side: step, loss and samples per second of the last steps."""

    def __init__(self, job: Job, rank: int) -> None:
        self.active = rank == 0
        self.path = job.progress
        self.files, _ = Store(job.root).filesystem()
        self.every = WRITE_EVERY_S["://" not in job.root]
        self.written = 0.0
        self.seconds = 0.0
        self.steps = 0

    def step(self, part: str, done: int, config: PartConfig, loss: float, seconds: float) -> float:
        """Note one finished step; returns samples per second since the last note written."""
        self.seconds += seconds
        self.steps += 1
        rate = self.steps * config.global_batch / self.seconds
        if self.active and (time.monotonic() - self.written > self.every or done == config.steps):
            state = {"part": part, "step": done, "steps": config.steps, "loss": round(loss, 5)}
            state |= {"samples_per_s": round(rate, 1), "pid": os.getpid()}
            with contextlib.suppress(*_troubles(self.path)):  # only for people to look at
                self.files.pipe_file(self.path, json.dumps(state).encode())
            self.written, self.seconds, self.steps = time.monotonic(), 0.0, 0
        return rate


@contextmanager
def watching(store: Store, path: str, config: TrainConfig) -> Iterator[None]:
    """Show the run's progress while the driver waits for it."""
    stop = threading.Event()
    total = sum(part.steps for part in config.parts.values())
    with progress(f"{config.stage.value}", total) as tick:

        def poll() -> None:
            while not stop.wait(POLL_S):
                state = _read(store, path)
                if state:
                    before = _steps_before(config, str(state["part"]))
                    note = (
                        f"{state['part']}  loss {state['loss']}  {state['samples_per_s']} samples/s"
                    )
                    tick(before + int(state["step"]), note)

        # With this thread's context, which knows the Prefect task whose progress it is.
        thread = threading.Thread(target=copy_context().run, args=(poll,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _steps_before(config: TrainConfig, part: str) -> int:
    names = list(config.parts)
    return sum(config.parts[name].steps for name in names[: names.index(part)])


def _read(store: Store, path: str) -> dict[str, str | int | float] | None:
    files, _ = store.filesystem()
    try:
        return json.loads(files.cat_file(path))
    except (*_troubles(path), ValueError):  # not there yet, or half-written
        return None


def _troubles(path: str) -> tuple[type[Exception], ...]:
    return troubles(local="://" not in path)
