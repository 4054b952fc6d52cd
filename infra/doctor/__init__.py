"""`psavlm doctor`: is this machine fit for a run, and if not, what is to be done?"""

from pathlib import Path

from infra.doctor.check import Check
from infra.doctor.machine import cores, disk, gpu, lock, memory, python
from infra.doctor.services import ports, registry, root_folder, running
from infra.servers.specs import SPECS

__all__ = ["Check", "examine"]


def examine(home: Path, root: str) -> list[Check]:
    """All checks of a project's folder and of the root where artifacts go; a few seconds."""
    return [
        python(),
        lock(home),
        disk(home, root),
        memory(),
        cores(),
        gpu(),
        root_folder(root),
        registry(),
        ports(home),
        *(running(spec, home) for spec in SPECS),
    ]
