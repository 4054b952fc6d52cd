"""A source's images, read and decoded by the workers of a Ray cluster, in order, with Ray Data.

References by path, and encoded bytes, lie in blocks; one fused task fetches, hashes and decodes the
images of a block. What comes back does not show where it was made: a worker that dies has its block
done by another, and what a worker refuses is looked at here, for it may not see the folder.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from infra import ray_cluster
from infra.places import is_remote
from schemas.errors import PsavlmError, ServerError
from schemas.samples import ImageRef, RawRecord
from tasks.decoder.children import cores
from tasks.ingest.images import Loaded, Refusal
from tasks.ingest.loading import Group, Loading
from tasks.ingest.worker import ASKED, decoded_block, from_answer

if TYPE_CHECKING:
    from ray import ObjectRef

# Images of a source that are read before a cluster is thought of.
IMAGES_ALONE = 4_096
# What Ray Data is given at once, one shard of the library, and what one task is given.
IMAGES_AT_ONCE, BYTES_AT_ONCE = 16_384, 512_000_000
IMAGES_PER_BLOCK, BYTES_PER_BLOCK = 64, 16_000_000
# How often a block is given to another worker when one has died.
RETRIES = 3
# Bytes of blocks and answers that Ray may hold in front of us.
MOST_BYTES = 2_000_000_000


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
        StorageError: a worker cannot read the bucket.
    """
    if cluster or os.environ.get(ray_cluster.OWN):
        yield from loading.all(_first(groups))
        if (group := next(groups, None)) is None:
            return
        groups = chain([group], groups)
        if _is_larger(cluster):
            yield from _on_cluster(loading, groups)
            return
    yield from loading.all(groups)


def _first(groups: Iterator[Group]) -> Iterator[Group]:
    """So many that a cluster would hardly have begun."""
    left = IMAGES_ALONE
    while left > 0 and (group := next(groups, None)):
        left -= group.images
        yield group


def _is_larger(address: str) -> bool:
    """Whether the cluster has more CPUs than this process, whose children need no way to go."""
    ray_cluster.join(address, cpus=1)
    import ray

    return ray.cluster_resources().get("CPU", 0) > cores()


def _on_cluster(
    loading: Loading, groups: Iterable[Group]
) -> Iterator[tuple[Group, dict[ImageRef, Loaded]]]:
    import ray

    known = ray.put(loading.spool.library.ids())
    chunk = Chunk(loading)
    for group in groups:
        chunk.add(group)
        if chunk.full:
            yield from chunk.loaded(known)
            chunk = Chunk(loading)
    yield from chunk.loaded(known)


@dataclass
class Chunk:
    """Groups whose images are asked for together; their bytes lie in Ray's object store."""

    loading: Loading
    images: int = 0
    size: int = 0
    _groups: list[tuple[Group, dict[ImageRef, str]]] = field(default_factory=list)
    _blocks: "list[ObjectRef[pa.Table]]" = field(default_factory=list)
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

    def loaded(
        self, library: "ObjectRef[np.ndarray]"
    ) -> Iterator[tuple[Group, dict[ImageRef, Loaded]]]:
        """Each group with its images."""
        self._close()
        answers = _answers(self._blocks, self.loading, library) if self._blocks else iter(())
        for group, known in self._groups:
            found: dict[ImageRef, Loaded] = {}
            for ref, image_id in known.items():
                found[ref] = image_id or from_answer(next(answers))
                if isinstance(found[ref], Refusal) and ref.path is not None:
                    found |= self.loading.here([ref])
            yield group, found

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
        import ray

        if self._rows:
            self._blocks.append(ray.put(pa.Table.from_pylist(self._rows, ASKED)))
            self._rows, self._row_bytes = [], 0


def _answers(
    blocks: "list[ObjectRef[pa.Table]]", loading: Loading, library: "ObjectRef[np.ndarray]"
) -> Iterator[dict[str, Any]]:
    """Rows of ANSWERED, in the order in which they were asked for."""
    import ray.data
    from ray.data import ExecutionResources
    from ray.exceptions import RayError

    # A worker's own folder is another one: what is meant is said in full.
    folder = loading.folder
    if folder and not is_remote(folder):
        folder = os.path.abspath(folder)
    told = {"folder": folder, "config": loading.config, "library": library}
    asked = ray.data.from_arrow_refs(blocks)
    asked.context.execution_options.preserve_order = True
    asked.context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=MOST_BYTES
    )
    asked.context.enable_progress_bars = asked.context.print_on_execution_start = False
    answers = asked.map_batches(
        decoded_block,
        batch_format="pyarrow",
        fn_kwargs=told,
        ray_remote_args_fn=lambda: {"max_retries": RETRIES},
    )
    try:
        for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()
    except RayError as error:
        if isinstance(cause := getattr(error, "cause", None), PsavlmError):
            raise cause from None
        raise ServerError(
            f"the Ray cluster went away in mid ingest ({type(error).__name__}): bring it back, or "
            "leave out the cluster, and run the same command: finished shards are kept"
        ) from error
