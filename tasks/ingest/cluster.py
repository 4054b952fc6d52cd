"""A source's images, read and decoded by the workers of a Ray cluster, in order, with Ray Data.

References by path, and encoded bytes, lie in blocks; one fused task fetches, hashes and decodes the
images of a block. What comes back does not show where it was made: a worker that dies has its block
done by another, and what a worker refuses is looked at here. Files that this process sees and a
worker does not are an error: one by one, each would be read here, and the cluster idle.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain
from typing import Any

from infra import ray_cluster
from schemas.samples import ImageRef, RawRecord
from tasks.decoder.children import cores
from tasks.ingest.images import Loaded, Refusal
from tasks.ingest.link import Link
from tasks.ingest.loading import Group, Loading
from tasks.ingest.worker import from_answer, unseen

# Images of a source that are read before a cluster is thought of.
IMAGES_ALONE = 4_096
# What Ray Data is given at once, one shard of the library, and what one task is given.
IMAGES_AT_ONCE, BYTES_AT_ONCE = 16_384, 512_000_000
IMAGES_PER_BLOCK, BYTES_PER_BLOCK = 64, 16_000_000


def loaded(
    loading: Loading, groups: Iterator[Group], *, cluster: str
) -> Iterator[tuple[Group, dict[ImageRef, Loaded]]]:
    """Each group with its images, by this process or, if the source is large, a larger cluster.

    Args:
        loading: how images are read.
        groups: a source's items.
        cluster: address of a Ray cluster; empty is that of `psavlm up`, if there is one.

    Raises:
        ConfigError: no cluster answers at the address.
        ServerError: the cluster went away, or a task has died again and again.
        StorageError: a worker does not see the folder, or cannot read the bucket.
    """
    if not cluster and not os.environ.get(ray_cluster.OWN):
        yield from loading.all(groups)
        return
    yield from loading.all(_first(groups))
    if (group := next(groups, None)) is None:
        return
    groups = chain([group], groups)
    with Link(cluster) as link:
        # This process's children need no way to go.
        if link.cpus > cores():
            yield from _on_cluster(loading, groups, link)
            return
    yield from loading.all(groups)


def _first(groups: Iterator[Group]) -> Iterator[Group]:
    """So many that a cluster would hardly have begun."""
    left = IMAGES_ALONE
    while left > 0 and (group := next(groups, None)):
        left -= group.images
        yield group


def _on_cluster(
    loading: Loading, groups: Iterable[Group], link: Link
) -> Iterator[tuple[Group, dict[ImageRef, Loaded]]]:
    link.begin(loading)
    chunk = Chunk(loading, link)
    for group in groups:
        chunk.add(group)
        if chunk.full:
            yield from chunk.loaded()
            chunk = Chunk(loading, link)
    yield from chunk.loaded()


@dataclass
class Chunk:
    """Groups whose images are asked for together; their bytes lie in Ray's object store."""

    loading: Loading
    link: Link
    images: int = 0
    size: int = 0
    _groups: list[tuple[Group, dict[ImageRef, str]]] = field(default_factory=list)
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _row_bytes: int = 0

    @property
    def full(self) -> bool:
        """Whether it is time to ask."""
        return self.images >= IMAGES_AT_ONCE or self.size >= BYTES_AT_ONCE

    def add(self, group: Group) -> None:
        """Append a group; of embedded images only the hashes stay in this process."""
        known: dict[ImageRef, str] = {}
        items = [
            replace(item, images=tuple(self._noted(ref, known) for ref in item.images))
            if isinstance(item, RawRecord)
            else item
            for item in group.items
        ]
        self._groups.append((replace(group, items=items), known))

    def loaded(self) -> Iterator[tuple[Group, dict[ImageRef, Loaded]]]:
        """Each group with its images."""
        self._close()
        if self.images:
            self.link.ask([])
        answers = self.link.answers()
        for group, known in self._groups:
            found: dict[ImageRef, Loaded] = {}
            for ref, image_id in known.items():
                found[ref] = image_id or self._checked(ref, from_answer(next(answers)))
            yield group, found

    def _checked(self, ref: ImageRef, answer: Loaded) -> Loaded:
        """What a worker refuses is looked at here: it may be ill, or not see the file."""
        if not isinstance(answer, Refusal) or ref.path is None:
            return answer
        found = self.loading.here([ref])[ref]
        if answer.detail == ref.path and not isinstance(found, Refusal):
            raise unseen(self.loading.folder, ref.path)
        return found

    def _noted(self, ref: ImageRef, known: dict[ImageRef, str]) -> ImageRef:
        """Ask for an image, unless it is known; what stands for it from now on."""
        if ref.data is None:
            stands, image_id = ref, self.loading.seen.image_of(ref.path or "")
        else:
            digest = sha256(ref.data)
            stands, image_id = ImageRef(data=digest.digest()), digest.hexdigest()
        if stands not in known:
            known[stands] = image_id if image_id and self.loading.spool.knows(image_id) else ""
            if not known[stands]:
                self._ask(ref)
        return stands

    def _ask(self, ref: ImageRef) -> None:
        size = len(ref.data or b"")
        self._rows.append({"path": ref.path, "data": ref.data})
        self._row_bytes += size
        self.size += size
        self.images += 1
        if len(self._rows) == IMAGES_PER_BLOCK or self._row_bytes >= BYTES_PER_BLOCK:
            self._close()

    def _close(self) -> None:
        if self._rows:
            self.link.ask(self._rows)
            self._rows, self._row_bytes = [], 0
