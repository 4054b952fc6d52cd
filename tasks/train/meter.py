"""What the steps of a part did, counted, and where their time went.

Counts are summed over all workers together with the gradients, in one collective.
"""

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# Of a step's global batch: its loss; items by kind; items that the head saw and how it judged them;
# answer tokens and how many were foreseen; positions that went through the language model (text,
# safety tokens, h_i), of the concept part patches, without and with padding; workers that were
# asked to stop.
COUNTED = (
    "loss", "clean", "risky", "seen", "types_right", "levels_right", "tokens", "tokens_right",
    "positions", "padded", "stop",
)  # fmt: skip
# What a product of this side tells of a device: large enough to be limited by arithmetic.
SIDE = {"cpu": 512, "cuda": 8192}


class Meter:
    """One worker's counts of a step, and the seconds that its data kept it waiting."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.counts: dict[str, Any] = {}
        self.waited = 0.0
        # Floating-point operations of one padded position, forward and backward, without recompute,
        # as counted once.
        self.flops = 0.0
        # Operations a second of this device's own products.
        self.peak = 0.0
        self.workers = 1

    def add(self, **counts: Any) -> None:
        """Add to the step's counts: numbers, or tensors that stay where they are."""
        for name, value in counts.items():
            self.counts[name] = self.counts.get(name, 0.0) + value

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Whatever is read in here, the step waits for."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - began

    def take(self) -> Tensor:
        """The step's counts [len(COUNTED)], which begin at nothing again."""
        found = [torch.as_tensor(self.counts.get(n, 0.0), device=self.device) for n in COUNTED]
        self.counts = {}
        return torch.stack([value.detach().float().reshape(()) for value in found])


def figures(window: Mapping[str, float], meter: Meter, batch: int) -> dict[str, float]:
    """What is shown of some steps, from their summed counts and seconds (checkpoints left out).

    Args:
        window: COUNTED, `seconds`, `waited` and `steps`, each summed over the steps.
        meter: what a position costs, and the device's own rate.
        batch: items of a global batch.
    """
    seconds = max(window["seconds"], 1e-9)
    found = {
        "samples_per_s": window["steps"] * batch / seconds,
        "tokens_per_s": window["positions"] / seconds,
        "data_wait": window["waited"] / seconds,
        "clean_per_unsafe": window["clean"] / max(window["risky"], 1.0),
        "memory_bytes": memory(meter.device),
    }
    for name, of in (("types", "seen"), ("levels", "seen"), ("tokens", "tokens")):
        if right := window[f"{name}_right"]:
            found[f"{name}_accuracy"] = right / window[of]
    if meter.peak:
        # Of one worker, whose device the rate is of.
        share = window["padded"] / meter.workers
        found["flop_utilisation"] = share * meter.flops / seconds / meter.peak
    return found


def memory(device: torch.device) -> int:
    """The most bytes that this process has had: on its GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_rate(device: torch.device, kind: torch.dtype) -> float:
    """Floating-point operations a second of this device's own matrix product, the best of three."""
    side = SIDE[device.type]
    # Zeros and ones alone cost a GPU less power, and so clock higher than training.
    drawn = torch.Generator(device).manual_seed(0)
    one = torch.randn(side, side, device=device, dtype=kind, generator=drawn)
    best = 0.0
    for _ in range(3):
        _wait(device)
        began = time.perf_counter()
        one @ one
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
