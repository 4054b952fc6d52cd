"""How far a run is: rank 0 writes a small file beside the checkpoints, and sets Ray's gauges."""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from infra.faults import troubles
from infra.store import Store
from schemas.config import PartConfig
from tasks.train.gauges import Gauges
from tasks.train.job import Job
from tasks.train.meter import Meter, figures

WRITE_EVERY_S = {True: 0.3, False: 5.0}  # by whether the root is local


class Reporter:
    """Rank 0's side: where the part stands, and the figures of the last steps."""

    def __init__(self, job: Job, rank: int) -> None:
        self.active = rank == 0
        self.job = job
        self.path = job.progress
        self.files, _ = Store(job.root).filesystem()
        self.troubles = troubles(local="://" not in job.root)
        self.gauges = Gauges(job)
        self.every = WRITE_EVERY_S["://" not in job.root]
        self.written = 0.0
        self.looked = time.monotonic()
        self.window: dict[str, float] = {}
        self.figures: dict[str, float] = {}

    def step(
        self,
        point: Mapping[str, Any],
        sums: Mapping[str, float],
        part: PartConfig,
        meter: Meter,
        *,
        seconds: float,
    ) -> None:
        """Note one finished step.

        Args:
            point: its part, number, loss, rate and gradient norm.
            sums: what was counted in it, over all workers.
            part: how it trained.
            meter: how long its data took here, and what a position costs.
            seconds: how long it took.
        """
        for name, value in {**sums, "seconds": seconds, "waited": meter.waited, "steps": 1}.items():
            self.window[name] = self.window.get(name, 0.0) + value
        meter.waited = 0.0
        self.figures = figures(self.window, meter, part.global_batch)
        if self.active and (self._due() or point["step"] == part.steps):
            self._write(point, part.steps)
            self.gauges.set({**point, **self.figures})
            self.window = {}

    def stopped(self, point: Mapping[str, Any]) -> None:
        """Say that the loop has ended before its time, with a checkpoint of this step."""
        if self.active:
            self._write({**point, "stopped": True}, self.job.config.parts[point["part"]].steps)

    def asked_to_stop(self) -> bool:
        """Whether the driver wants the loop to end with a checkpoint; rank 0 looks now and then."""
        if not self.active or time.monotonic() - self.looked < self.every:
            return False
        self.looked = time.monotonic()
        self.files.invalidate_cache()
        with contextlib.suppress(*self.troubles):
            return bool(self.files.exists(self.job.stop))
        return False

    def _due(self) -> bool:
        return time.monotonic() - self.written > self.every

    def _write(self, point: Mapping[str, Any], steps: int) -> None:
        told = {name: float(f"{value:.5g}") for name, value in self.figures.items()}
        state = {**point, "loss": round(point["loss"], 5), "steps": steps, **told}
        state |= {"pid": os.getpid()}
        with contextlib.suppress(*self.troubles):  # only for people to look at
            self.files.pipe_file(self.path, json.dumps(state).encode())
        self.written = time.monotonic()
