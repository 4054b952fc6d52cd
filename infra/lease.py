"""One builder per artifact: a lease that a living process renews and others wait for.

The lease of a folder is `lease.json`. Who takes over from a dead or expired holder X adds
`lease-X.json`, and so on: the last link of this chain holds. Every link has one writer and is
created by a conditional put, so that exactly one process takes over, on any storage that has such
a put. The lease only saves work: the conditional put of the manifest decides who wins.

Clocks of two machines may differ by hours. So nobody is called late by the clock alone: who waits
also looks for a while whether the holder renews its lease.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from pydantic import ValidationError

from infra.files import Files
from infra.holder import TTL_S, Lease
from schemas.errors import StorageError

log = logging.getLogger(__name__)

BEAT_S = 15.0
POLL_S = 0.5


@contextlib.contextmanager
def leased(files: Files, folder: str) -> Iterator[tuple[Lease, list[str]]]:
    """Hold the lease of a folder; wait while another living process holds it.

    Yields:
        This build's lease, and the owners that died on this host while they held it.
    """
    mine = Lease.mine()
    path, dead = _wait(files, folder, mine=mine)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(files, folder, path, mine, stop), daemon=True)
    beat.start()
    try:
        yield mine, dead
    finally:
        stop.set()
        beat.join()
        try:
            _release(files, folder, path=path, owner=mine.owner)
        except StorageError as error:  # it expires by itself; the build's own error matters more
            log.warning("lease not released: %s", error)


def living(files: Files, folder: str) -> Lease | None:
    """Return the lease of a living holder, None if nobody builds; nothing is written."""
    holder = unreleased(files, folder)
    return None if holder is None or holder.expires < time.time() else holder


def unreleased(files: Files, folder: str) -> Lease | None:
    """Return the lease of a holder that is not known to be dead, expired or not: as `living`."""
    chain = _chain(files, folder, tidy=False)
    holder = list(chain.values())[-1] if chain else None
    return None if holder is None or holder.dead() else holder


class _Watch:
    """How long a holder has not renewed its lease, by this process's own clock."""

    def __init__(self) -> None:
        self._seen: Lease | None = None
        self._since = 0.0

    def over(self, holder: Lease) -> bool:
        """Whether the holder is gone: dead, or silent for a lease's time or as its clock says."""
        if holder != self._seen:
            self._seen, self._since = holder, time.monotonic()
        silent = time.monotonic() - self._since
        late = holder.expires < time.time() and silent > 2 * BEAT_S
        return holder.dead() or late or silent > TTL_S


def _wait(files: Files, folder: str, *, mine: Lease) -> tuple[str, list[str]]:
    said, watch = "", _Watch()
    while True:
        chain = _chain(files, folder)
        holder = list(chain.values())[-1] if chain else None
        if holder is None or watch.over(holder):
            name = f"lease-{holder.owner}.json" if holder else "lease.json"
            if _take(files, folder, name=name, mine=mine):
                return f"{folder}/{name}", [old.owner for old in chain.values() if old.dead()]
        elif said != holder.owner:
            said = holder.owner
            log.info("%s: waiting for pid %d on %s", folder, holder.pid, holder.host)
        time.sleep(POLL_S)


def _take(files: Files, folder: str, *, name: str, mine: Lease) -> bool:
    path = f"{folder}/{name}"
    if not files.put(path, mine.data(), fresh=True):
        return False
    # The chain may have been released since it was read: a link that hangs in the air holds
    # nothing. The look back also catches most races on an S3 that ignores If-None-Match.
    chain = _chain(files, folder)
    if _holds(chain, mine.owner):
        return True
    if path not in chain:
        files.remove(path)
    return False


def _chain(files: Files, folder: str, *, tidy: bool = True) -> dict[str, Lease]:
    """Read path -> lease, from the first to the one that holds."""
    chain: dict[str, Lease] = {}
    path = f"{folder}/lease.json"
    while path not in chain and (lease := _read(files, path, tidy=tidy)) is not None:
        chain[path] = lease
        path = f"{folder}/lease-{lease.owner}.json"
    return chain


def _read(files: Files, path: str, *, tidy: bool) -> Lease | None:
    data = files.read(path)
    if data is None:
        return None
    try:
        return Lease.model_validate_json(data)
    except ValidationError:
        if tidy:
            log.warning("%s is no lease; removed", path)
            files.remove(path)
        return None


def _beat(files: Files, folder: str, path: str, lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        try:
            # Whoever took over while this machine slept must not find its own lease overwritten.
            if not _holds(_chain(files, folder, tidy=False), lease.owner):
                log.warning("%s: another process has taken over; who ends first counts", folder)
                return
            files.put(path, lease.data(), fresh=False)
        except StorageError as error:  # the next beat tries again; the manifest decides anyway
            log.warning("lease not renewed: %s", error)


def _holds(chain: dict[str, Lease], owner: str) -> bool:
    return bool(chain) and list(chain.values())[-1].owner == owner


def _release(files: Files, folder: str, *, path: str, owner: str) -> None:
    chain = _chain(files, folder)
    if _holds(chain, owner):
        # The first link first: what hangs on a removed one holds nothing (see _take).
        for link in chain:
            files.remove(link)
    elif path not in chain:
        files.remove(path)
