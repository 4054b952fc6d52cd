"""Whether a process still lives: a pid alone does not say, because a used pid may come back."""

import os
from pathlib import Path


def started(pid: int) -> str:
    """Return the boot's id and the process's start in clock ticks; "" if gone or without /proc."""
    try:
        return f"{_boot()} {_stat(pid)[19]}"
    except OSError:
        return ""


def left_session(pid: int, since: str) -> bool:
    """Whether a session that a process `started` then has led may still be its own.

    Not after a reboot, and not once another process has its number.
    """
    try:
        boot = _boot()
    except OSError:  # no /proc: nobody knows
        return True
    return since.startswith(f"{boot} ") and started(pid) in ("", since)


def alive(pid: int, since: str) -> bool:
    """Whether the process that was `started` then is still there, and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    try:
        state = _stat(pid)[0]
    except OSError:  # no /proc, or hidden: the signal is all there is
        return True
    # A killed process stays as a zombie until its parent asks for it.
    return state not in "ZX" and started(pid) == since


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third (state) on; the name may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
