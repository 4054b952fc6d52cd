"""What features of a bucket take of this disk, told to each other by all processes of a machine.

Who brings features here claims their bytes first: in a small file beside the copies, which he keeps
locked for as long as he uses them. A claim that nobody keeps locked is of a process that is gone,
and whoever looks next removes it. Shards are claimed by name: one that several claim, or that lies
here already, counts once.
"""

import contextlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from infra import cache
from infra.disk import alone, free_bytes, lock

CLAIMS = ".claims"


class Ledger:
    """All claims, at a moment at which nobody else makes one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def taken(self) -> dict[str, int]:
        """Bytes by the name of a shard, `{step}/{fingerprint}/{attempt}`, or of something else."""
        here: Counter[str] = Counter()
        for folder, _, names in os.walk(cache.home() / cache.FEATURES):
            shard = "/".join(Path(folder).relative_to(cache.home()).parts[:3])
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # whose owner has just removed it
                    here[shard] += Path(folder, name).stat().st_size
        return {**self._claimed(), **here}

    def claim(self, wanted: Mapping[str, int]) -> TextIO:
        """Claim bytes by name until what is returned is closed, or this process is gone."""
        file = (self._folder / f"{uuid.uuid4().hex}.json").open("w")
        lock(file)
        json.dump(wanted, file)
        file.flush()
        return file

    def _claimed(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in self._folder.glob("*.json"):
            with path.open("r+") as file:
                if lock(file, wait=False):
                    path.unlink()
                else:
                    found |= json.load(file)
        return found


@contextlib.contextmanager
def ledger() -> Iterator[Ledger]:
    """Let nobody else claim meanwhile."""
    folder = cache.made(cache.home() / CLAIMS)
    with alone(folder / "lock"):
        yield Ledger(folder)


def fits(own: int) -> bool:
    """Whether features are within the budget; without one, whether this process's own are.

    Args:
        own: bytes that this process has put here; without a budget at most half of what was free.
    """
    budget = cache.budget()
    if budget is None:
        return own <= free_bytes(cache.home())
    with ledger() as found:
        return sum(found.taken().values()) <= budget
