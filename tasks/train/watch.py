"""How far a run is, as the driver shows it: what rank 0 writes beside the checkpoints."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from infra.faults import troubles
from infra.registry import Live
from infra.store import Store
from schemas.config import TrainConfig
from tasks.progress import progress

POLL_S = 0.5


# What a line of progress tells beside loss and speed, where it is known.
SHOWN = {
    "types_accuracy": "types {:.0%}",
    "levels_accuracy": "levels {:.0%}",
    "tokens_accuracy": "tokens {:.0%}",
    "clean_per_unsafe": "ratio {:.2f}",
    "data_wait": "waits {:.0%}",
    "flop_utilisation": "of peak {:.0%}",
}
LOG_EVERY_S = 10.0
State = dict[str, Any]


@contextmanager
def watching(
    store: Store, path: str, config: TrainConfig, live: Live | None = None
) -> Iterator[None]:
    """Show the run's progress while the driver waits for it; its figures go to MLflow as well."""
    stop = threading.Event()
    total = sum(part.steps for part in config.parts.values())
    with progress(f"{config.stage.value}", total) as tick:

        def poll() -> None:
            logged, last = 0.0, 0
            while not stop.wait(POLL_S):
                state = _read(store, path)
                if not state:
                    continue
                done = _steps_before(config, state["part"]) + int(state["step"])
                tick(done, noted(state))
                if live and done > last and time.monotonic() - logged > LOG_EVERY_S:
                    logged, last = time.monotonic(), done
                    live.log(_figures(state), done)

        # With this thread's context, which knows the Prefect task whose progress it is.
        thread = threading.Thread(target=copy_context().run, args=(poll,), daemon=True)
        thread.start()
        well = False
        try:
            yield
            well = True
        finally:
            stop.set()
            thread.join()
            if live:
                live.end(well=well)


def noted(state: State) -> str:
    """Where a part stands, in one line."""
    told = [state["part"], f"loss {state['loss']}", f"{state['samples_per_s']} samples/s"]
    told += [text.format(state[name]) for name, text in SHOWN.items() if name in state]
    return "  ".join(told)


def _figures(state: State) -> dict[str, float]:
    """The numbers of a state, by the part that they are of."""
    return {
        f"{state['part']}/{name}": float(value)
        for name, value in state.items()
        if isinstance(value, int | float) and name not in ("pid", "steps", "stopped")
    }


def _steps_before(config: TrainConfig, part: str) -> int:
    names = list(config.parts)
    return sum(config.parts[name].steps for name in names[: names.index(part)])


def _read(store: Store, path: str) -> State | None:
    files, _ = store.filesystem()
    try:
        return json.loads(files.cat_file(path))
    except (*_troubles(path), ValueError):  # not there yet, or half-written
        return None


def _troubles(path: str) -> tuple[type[Exception], ...]:
    return troubles(local="://" not in path)
