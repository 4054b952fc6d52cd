"""How far a run is, as the driver shows it: what rank 0 writes beside the checkpoints."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context

from infra.faults import troubles
from infra.store import Store
from schemas.config import TrainConfig
from tasks.progress import progress

POLL_S = 0.5


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
