"""Where an artifact comes from: the code, the lock and the machine that built it.

None of this is part of a fingerprint: it tells people, and lets a plan say how long a step takes.
"""

import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

HOME = Path(__file__).parents[1]
LOCK = "constraints.txt"
# Beside code that was sent to a cluster without its git folder.
ORIGIN = "origin.json"
GIB = 2**30


@functools.cache
def provenance() -> dict[str, Any]:
    """commit, dirty (None outside of a git checkout), lock (sha256), versions, host's hardware."""
    lock = HOME / LOCK
    return {
        **_origin(),
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
        "psavlm": version("psavlm"),
        "python": platform.python_version(),
        "host": {
            "cpus": os.cpu_count(),
            "cpu": _cpu(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
            "gpus": _gpus(),
        },
    }


def _origin() -> dict[str, Any]:
    """The commit of the code here, or of that which was sent here."""
    if (HOME / ORIGIN).is_file():
        told: dict[str, Any] = json.loads((HOME / ORIGIN).read_bytes())
        return told
    status = _output("git", "-C", str(HOME), "status", "--porcelain")
    return {
        "commit": _output("git", "-C", str(HOME), "rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines() if names else []


def _output(*command: str) -> str | None:
    """What a command prints; None if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
