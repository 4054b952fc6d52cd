"""Things of a bucket on this machine's disk as far as a budget goes, fetched before they are read.

They lie in one file without a name, in slots of equal size, so that it can never outgrow the budget
and is gone with the process. What is needed last makes room. Where others have left nothing of the
budget, the file lies in memory and holds as much as is fetched at once.
"""

import logging
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from tempfile import TemporaryFile
from threading import Lock

from infra import cache, staging
from schemas.errors import ConfigError, StorageError

READERS = 16
AT_ONCE = 64  # things that are fetched before somebody who waits for others has his turn
LOOK = 4_096  # things to come that are looked at
AHEAD, SHARE = 1_024, 4  # that are fetched, at most a quarter of what fits: the rest is kept
log = logging.getLogger(__name__)


class Stage:
    """Things by name, each of at most `size` bytes.

    Args:
        fetch: brings one, from several threads.
        size: of a slot.
        budget: bytes on disk, of which it takes what is left when it begins.

    Raises:
        ConfigError: PSAVLM_STAGE_BYTES is too little for a single one.
        StorageError: (of `take`) the disk is full, and what `fetch` raises.
    """

    def __init__(self, fetch: Callable[[str], bytes], *, size: int, budget: int) -> None:
        self.size, self.fetched = size, 0
        self.slots = self._claimed(budget)
        if self.slots:
            self.file = TemporaryFile(dir=cache.home())  # noqa: SIM115 - gone with this object
        else:
            log.warning("nothing is left here of %s: features go through memory", cache.BUDGET)
            self.slots, self.file = AT_ONCE, os.fdopen(os.memfd_create("features"), "w+b")
        self._fetch = fetch
        self._free = list(range(self.slots))
        # Slot and bytes of each, the latest used last.
        self._held: dict[str, tuple[int, int]] = {}
        self._order: dict[str, int] = {}
        self._turn = 0
        self._lock = Lock()
        self._pool, self._ahead = ThreadPoolExecutor(READERS), ThreadPoolExecutor(1)

    def expect(self, upcoming: Callable[[int], Sequence[str]]) -> None:
        """Bring what comes, in its order, while nobody waits; what was told before is dropped."""
        self._turn += 1
        self._ahead.submit(self._bring_ahead, upcoming, self._turn)

    def take(self, names: Sequence[str]) -> list[bytes]:
        """The things, in the order asked."""
        found: list[bytes] = []
        for first in range(0, len(names), self.slots):
            part = names[first : first + self.slots]
            with self._lock:
                self._bring(part)
                found += [self._read(name) for name in part]
        return found

    def _claimed(self, most: int) -> int:
        """Slots that there is room for on this disk, claimed for as long as this object is used."""
        given = cache.budget()
        if given is not None and given < self.size:
            raise ConfigError(
                f"{given:,} bytes for features on this disk do not hold those of one image "
                f"({self.size:,}): raise {cache.BUDGET}"
            )
        with staging.ledger() as ledger:
            left = cache.room(sum(ledger.taken().values()))
            slots = min(most, left) // self.size
            self._claim = ledger.claim({f"stage-{uuid.uuid4().hex}": slots * self.size})
        return slots

    def _bring_ahead(self, upcoming: Callable[[int], Sequence[str]], turn: int) -> None:
        """An error ends it; who reads meets the same one and tells it."""
        names = list(dict.fromkeys(upcoming(LOOK)))
        with self._lock:
            self._order = {name: place for place, name in enumerate(names)}
        names = names[: min(AHEAD, max(self.slots // SHARE, 1))]
        for first in range(0, len(names), AT_ONCE):
            with self._lock:
                if turn != self._turn:
                    return
                self._bring(names[first : first + AT_ONCE])

    def _bring(self, names: Sequence[str]) -> None:
        missing = [name for name in dict.fromkeys(names) if name not in self._held]
        self._make_room(len(missing), spare=set(names))
        for name, data in zip(missing, self._pool.map(self._fetch, missing), strict=True):
            self._write(data, self._free[-1])
            self._held[name] = self._free.pop(), len(data)
            self.fetched += len(data)

    def _make_room(self, count: int, *, spare: set[str]) -> None:
        """Give up what is needed last; of what is not expected at all, what was read last.

        A reader that begins again in the same order needs last what he has read last; in another
        order he needs all alike.
        """
        due = count - len(self._free)
        if due <= 0:
            return
        last = (n for n in reversed(self._held) if n not in self._order and n not in spare)
        given = list(islice(last, due))
        if len(given) < due:
            order = self._order
            later = [name for name in self._held if name in order and name not in spare]
            given += sorted(later, key=lambda name: -order[name])[: due - len(given)]
        for name in given:
            self._free.append(self._held.pop(name)[0])

    def _write(self, data: bytes, slot: int) -> None:
        try:
            whole = os.pwrite(self.file.fileno(), data, slot * self.size) == len(data)
            why = "No space left on device"
        except OSError as error:
            whole, why = False, error.strerror or str(error)
        if not whole:
            raise StorageError(
                f"cannot keep features in {cache.home()}: {why}; make room there, or lower "
                f"{cache.BUDGET}"
            )

    def _read(self, name: str) -> bytes:
        slot, size = self._held[name] = self._held.pop(name)
        return os.pread(self.file.fileno(), size, slot * self.size)
