"""A source's items with their images, in order, read ahead by threads within a bound of bytes.

A group of items is one piece of work: its images are fetched, hashed and decoded by one thread,
and a child process (tasks/decoder) has the next image at hand when it has done one.
"""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Condition

from infra.places import is_remote
from schemas.config import IngestConfig
from schemas.samples import ImageRef, RawRecord, RawReject
from tasks.decoder.children import cores
from tasks.ingest.images import Loaded, Refusal, fetch, load
from tasks.ingest.seen import Seen
from tasks.ingest.shards import ImageSpool

Item = RawRecord | RawReject
# A group ends with whichever comes first.
ITEMS, IMAGES, BYTES = 256, 8, 8_000_000
# Encoded bytes that wait to be used: so many, the oldest group's and one image a thread.
MOST_BYTES = 64_000_000
# A bucket answers late, and many requests at once.
REQUESTS = 16


@dataclass
class Group:
    """A few items in order; `size` is how many of their images' bytes are held."""

    number: int = 0
    items: list[Item] = field(default_factory=list)
    images: int = 0
    size: int = 0

    @property
    def refs(self) -> Iterator[ImageRef]:
        """The images of its records."""
        return (r for item in self.items if isinstance(item, RawRecord) for r in item.images)

    @property
    def full(self) -> bool:
        """Whether it has enough to do for one thread."""
        return len(self.items) >= ITEMS or self.images >= IMAGES or self.size >= BYTES

    def add(self, item: Item) -> None:
        """Append one item."""
        self.items.append(item)
        if isinstance(item, RawRecord):
            self.images += len(item.images)
            self.size += sum(len(ref.data) for ref in item.images if ref.data is not None)


class Room:
    """The bytes that are held; whoever's turn it is may always go on, or nobody could."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._turn = 0
        self._changed = Condition()

    @property
    def full(self) -> bool:
        """Whether no more should be begun."""
        return self._held >= self._limit

    def wait(self, number: int) -> None:
        """Until there is room for an image, or it is this group's turn."""
        with self._changed:
            self._changed.wait_for(lambda: not self.full or number == self._turn)

    def hold(self, size: int) -> None:
        """Bytes are in memory."""
        with self._changed:
            self._held += size

    def leave(self, size: int) -> None:
        """The group whose turn it was is done with; the next one's turn."""
        with self._changed:
            self._held -= size
            self._turn += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody comes any more: all that wait may go on."""
        with self._changed:
            self._limit = sys.maxsize
            self._changed.notify_all()


def grouped(items: Iterable[Item]) -> Iterator[Group]:
    """Items in order, as many as one thread should take at once."""
    group = Group()
    for item in items:
        group.add(item)
        if group.full:
            yield group
            group = Group()
    if group.items:
        yield group


@dataclass(frozen=True)
class Loading:
    """How the images of a source are read: its folder, limits, and what is known of it."""

    folder: str
    config: IngestConfig
    spool: ImageSpool
    seen: Seen

    def all(self, groups: Iterable[Group]) -> Iterator[tuple[Group, dict[ImageRef, Loaded]]]:
        """Each group with its images; a few groups are read ahead."""
        threads = max(cores() + 2, REQUESTS if self.folder and is_remote(self.folder) else 0)
        room = Room(MOST_BYTES)
        ahead: deque[tuple[Group, Future[dict[ImageRef, Loaded]]]] = deque()
        pool = ThreadPoolExecutor(threads)
        try:
            for number, group in enumerate(groups):
                group.number = number  # whose turn it is, in this room
                room.hold(group.size)
                ahead.append((group, pool.submit(self._load, group, room)))
                while len(ahead) > 2 * threads or (ahead and room.full):
                    yield self._next(ahead, room)
            while ahead:
                yield self._next(ahead, room)
        finally:
            room.close()
            pool.shutdown(cancel_futures=True)

    def here(self, refs: Iterable[ImageRef]) -> dict[ImageRef, Loaded]:
        """A few images at once, by this thread."""
        read = partial(fetch, folder=self.folder, config=self.config)
        limit = self.config.max_image_pixels
        return load(refs, read=read, knows=self.spool.knows, max_pixels=limit)

    @staticmethod
    def _next(
        ahead: "deque[tuple[Group, Future[dict[ImageRef, Loaded]]]]", room: Room
    ) -> tuple[Group, dict[ImageRef, Loaded]]:
        group, future = ahead.popleft()
        found = future.result()
        room.leave(group.size)
        return group, found

    def _load(self, group: Group, room: Room) -> dict[ImageRef, Loaded]:
        read = partial(self._read, group=group, room=room)
        limit = self.config.max_image_pixels
        return load(group.refs, read=read, knows=self.spool.knows, max_pixels=limit)

    def _read(self, ref: ImageRef, *, group: Group, room: Room) -> bytes | str | Refusal:
        known = self.seen.image_of(ref.path) if ref.path is not None else None
        if known and self.spool.knows(known):
            return known
        if ref.data is None:
            room.wait(group.number)
        data = fetch(ref, folder=self.folder, config=self.config)
        if ref.data is None and isinstance(data, bytes):
            room.hold(len(data))
            group.size += len(data)
        return data
