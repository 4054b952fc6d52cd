"""What ways to train are timed and counted by: rounds by turns, operations, bytes, a device's own
rates.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.flops import Flops

COPIED = {"cpu": 1 << 26, "cuda": 1 << 30}  # bytes


class Loop:
    """A way to train: `one(step)` takes a step and returns its loss. A first step is taken here."""

    def __init__(self, one: Callable[[int], float], *, steps: int, device: torch.device) -> None:
        self.one, self.steps, self.device = one, steps, device
        self.losses: list[float] = []
        with as_in_training():
            one(0)

    def seconds(self) -> float:
        """Seconds of a step over a round of steps 1 to `steps`."""
        with as_in_training():
            began = now(self.device)
            self.losses += [self.one(step) for step in range(1, self.steps + 1)]
            return (now(self.device) - began) / self.steps


@contextmanager
def as_in_training() -> Iterator[None]:
    """torch set as a worker sets it (tasks/train/worker.py), and afterwards as it was."""
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=warns)


def by_turns(ways: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, float]:
    """The least of what each way tells in `rounds` rounds, in each of which all have their turn."""
    told = [{name: seconds() for name, seconds in ways.items()} for _ in range(rounds)]
    return {name: min(one[name] for one in told) for name in ways}


def now(device: torch.device) -> float:
    """Seconds of the wall's clock, with the device's work done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def counted(call: Callable[[], Any]) -> float:
    """Floating-point operations of a call."""
    with Flops() as counter:
        call()
    return float(counter.get_total_flops())


class Bytes(TorchDispatchMode):
    """Bytes that the operations within it read and write, were nothing fused and no cache there."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        infos = [value.alias_info for value in func._schema.returns]
        is_view = any(info is not None and not info.is_write for info in infos)
        if not is_view and "empty" not in func.__name__:
            touched = tree_leaves((args, kwargs, found))
            self.moved += sum(_bytes(one) for one in touched if isinstance(one, torch.Tensor))
        return found


def moved(call: Callable[[], Any]) -> float:
    """Bytes that a call reads and writes."""
    with Bytes() as counter:
        call()
    return float(counter.moved)


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a large copy on this device reads and writes, the best of three."""
    source = torch.zeros(COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / min(seconds_of(lambda: target.copy_(source), device) for _ in range(3))


def read_rate(arrays: Iterable[np.ndarray]) -> float:
    """Bytes a second at which these arrays are read as they lie, the best of three."""
    parts = list(arrays)
    cpu = torch.device("cpu")
    seconds = min(seconds_of(lambda: [part.copy() for part in parts], cpu) for _ in range(3))
    return sum(part.nbytes for part in parts) / seconds


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the wall's clock that a call takes."""
    began = now(device)
    call()
    return now(device) - began


def _bytes(tensor: torch.Tensor) -> int:
    """An expanded tensor's are fewer than its places."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
