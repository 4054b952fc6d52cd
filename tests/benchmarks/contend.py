"""Contenders in processes of their own: how long the work took, and their peak memory."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).parents[2]
MIB = 1024  # ru_maxrss counts KiB


class Measured(NamedTuple):
    """Seconds of the work alone, peak MiB of all the process, and what the work returned."""

    seconds: float
    mib: float
    found: Any

    def numbers(self, name: str) -> dict[str, float]:
        """As a benchmark tells it."""
        return {f"{name}_seconds": round(self.seconds, 2), f"{name}_peak_mib": round(self.mib)}


def python(module: str, *words: object) -> str:
    """Run a module's main; returns its last line. A child begins with its parent's peak memory
    as its own, so that whoever measures must have little.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1] if done.stdout else ""


def measured(module: str, *words: object) -> Measured:
    """What `contend` told in a module's main."""
    return Measured(*json.loads(python(module, *words)))


def contend(work: Callable[[], Any]) -> None:
    """Do the work and tell."""
    began = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - began
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    print(json.dumps([seconds, mib, found]))


def warm(folder: Path) -> None:
    """Read all files once, so that nobody pays for a cold disk."""
    for file in folder.rglob("*.parquet"):
        with file.open("rb") as data:
            while data.read(2**24):
                pass


def machine() -> dict[str, float]:
    """What the numbers depend on."""
    return {"cpus": os.cpu_count() or 1}
