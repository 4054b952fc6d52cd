"""The peak memory of this process, measured from a moment on.

Not by ru_maxrss: a process begins with that of its parent, and nothing sets it back.
"""

import re
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> float:
    """Begin anew to look for the peak; the MiB that are used now."""
    CLEAR.write_text("5")
    return peak()


def peak() -> float:
    """The most MiB that were used since then."""
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    assert found
    return int(found[1]) / 1_024
