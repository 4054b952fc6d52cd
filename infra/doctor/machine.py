"""Checks of the machine: Python, packages, room, processors."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil

from infra.doctor.check import Check, broken, fine, note

GB = 1e9
PYTHONS = ((3, 11), (3, 12))
# The environment takes 2.5 GB, a tiny root with its runs about one.
DISK_GB, ROOMY_DISK_GB = 2, 10
# Ray's head takes about one, each training process as much again.
MEMORY_GB, ROOMY_MEMORY_GB = 2, 6
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)")
_NAME = re.compile(r"^[A-Za-z0-9._-]+")


def python() -> Check:
    """Its version, and whether it is an environment of its own."""
    have = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] not in PYTHONS:
        return broken("python", have, "install Python 3.11 and run: make clean install")
    if sys.prefix == sys.base_prefix:
        return note("python", f"{have}, no environment of its own", "run: make install")
    return fine("python", have)


def lock(home: Path) -> Check:
    """Installed versions against constraints.txt, and nothing missing that psavlm requires."""
    path = home / "constraints.txt"
    if not path.is_file():
        return note("lock", "no constraints.txt here", "run this in the project's folder")
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = dict(match.groups() for line in lines if (match := _PIN.match(line)))
    have = {name: _installed(name) for name in pins}
    wrong = [f"{n} {have[n]} for {pin}" for n, pin in pins.items() if have[n] not in ("", pin)]
    needed = [line for line in requires("psavlm") or () if "extra ==" not in line]
    names = [match.group() for line in needed if (match := _NAME.match(line))]
    missing = [f"{name} missing" for name in names if not _installed(name)]
    if odd := wrong + missing:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        said = f"{', '.join(odd[:3])}{more}"
        return broken("lock", said, "run: rm -f .venv/.installed && make install")
    return fine("lock", f"{sum(map(bool, have.values()))} packages as in constraints.txt")


def disk(home: Path, root: str) -> Check:
    """Free space where the root lies or would lie; for one in a bucket where `.psavlm` does."""
    place = home if "://" in root else home / Path(root).expanduser()
    place = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free / GB
    said = f"{free:.0f} GB free"
    if free < DISK_GB:
        return broken("disk", said, f"make room: a tiny run needs {DISK_GB} GB")
    if free < ROOMY_DISK_GB:
        return note("disk", said, "enough for tiny runs; a real model needs tens of GB")
    return fine("disk", said)


def memory() -> Check:
    """What programs can still have, by the kernel's own estimate."""
    free = psutil.virtual_memory().available / GB
    said = f"{free:.0f} GB available"
    if free < MEMORY_GB:
        return broken("memory", said, f"stop other programs: a tiny run needs {MEMORY_GB} GB")
    if free < ROOMY_MEMORY_GB:
        return note("memory", said, "enough for tiny runs, one at a time")
    return fine("memory", said)


def cores() -> Check:
    """How many processors this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if count == 1:
        return note("cores", "1", "all runs, slowly: times in the README are those of two")
    return fine("cores", str(count))


def gpu() -> Check:
    """What nvidia-smi knows; none is no fault."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except FileNotFoundError:
        return note("gpu", "none", "not needed for the tiny presets; a 7B model wants one")
    except subprocess.TimeoutExpired:
        return broken("gpu", "nvidia-smi does not answer", "look at the driver: dmesg")
    if done.returncode != 0:
        why = (done.stdout + done.stderr).strip().split("\n")[0]
        return broken("gpu", f"nvidia-smi fails: {why}", "repair the driver, or hide it from PATH")
    return fine("gpu", "; ".join(done.stdout.strip().split("\n")))


def _installed(name: str) -> str:
    """The version without its local part (+cpu); "" if the package is not there."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""
