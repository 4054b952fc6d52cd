"""Features without a cache: encoded when they are asked for, with the numbers that it would hold.

One thread reads, decodes and encodes ahead of the reader, in the order that he has told, always in
whole batches. Nothing is drawn there, so that training's own draws stay what they are.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.config import EncodeConfig
from tasks.base_model import FOLDER
from tasks.encode.pictures import Pictures
from tasks.encode.sight import as_kept, as_tensor, open_sight, seen

if TYPE_CHECKING:
    import torch

    from model.features import ImagePatches

BATCHES_AHEAD = 2
Upcoming = Callable[[int], Sequence[str]]
Batch = list[Any]  # of a batch's images, as a shard would hold them


class OnTheFly:
    """The features of an encode artifact that keeps none, by image id."""

    def __init__(self, artifact: Artifact, store: Store, places: pa.Table) -> None:
        manifest = store.manifest(artifact)
        self.config = EncodeConfig.model_validate(manifest.config)
        base = open_artifact(f"{store.root}/{manifest.parents['base']}")
        self.backbone = open_sight(self.config, store.local(base) / FOLDER)
        self.pictures = Pictures(artifact, places)
        self._upcoming: Upcoming = _nothing
        self._thread = ThreadPoolExecutor(1)
        # Each image's batch that is encoded or will be, and its place there.
        self._asked: dict[str, tuple[Future[Batch], int]] = {}

    def expect(self, upcoming: Upcoming) -> None:
        """Take in what will be read from now on; see FeatureCache.expect."""
        self._upcoming = upcoming

    def patches(self, image_ids: Sequence[str]) -> np.ndarray:
        """P of each of these images, [N]."""
        from model.backbones.sight import patches_of

        if self.backbone.patches is not None:
            return np.full(len(image_ids), self.backbone.patches)
        sizes = self.pictures.sizes(image_ids)
        return np.array([patches_of(self.backbone, size) for size in sizes], dtype=np.int64)

    def batch(self, image_ids: Sequence[str]) -> "torch.Tensor | list[ImagePatches]":
        """h_o of these images, as a shard would hold them."""
        import torch

        from model.features import ImagePatches

        now = list(dict.fromkeys(image_ids))
        room = len(now) + BATCHES_AHEAD * self.config.batch
        later = [name for name in dict.fromkeys(self._upcoming(room)) if name not in set(now)]
        self._ask(now, later[: BATCHES_AHEAD * self.config.batch])
        found = [self._asked[name] for name in image_ids]
        rows = [as_tensor(batch.result()[place].copy()) for batch, place in found]
        kept = {*now, *later}
        self._asked = {name: own for name, own in self._asked.items() if name in kept}
        if self.backbone.patches is not None:
            return torch.stack(rows)
        sizes = self.pictures.sizes(image_ids)
        return [ImagePatches(own, size) for own, size in zip(rows, sizes, strict=True)]

    def _ask(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Have encoded what must be now, filled up with what comes; what comes in whole batches."""
        size = self.config.batch
        due = [name for name in now if name not in self._asked]
        more = [name for name in later if name not in self._asked]
        fill = more[: -len(due) % size]
        more = more[len(fill) :]
        names = [*due, *fill, *more[: len(more) // size * size]]
        for first in range(0, len(names), size):
            batch = names[first : first + size]
            encoded = self._thread.submit(self._encoded, batch)
            self._asked |= {name: (encoded, place) for place, name in enumerate(batch)}

    def _encoded(self, image_ids: Sequence[str]) -> Batch:
        import torch

        features = seen(self.backbone, self.pictures.read(image_ids), self.config.batch)
        if isinstance(features, torch.Tensor):
            return list(as_kept(features, self.config.dtype))
        return [as_kept(image.rows, self.config.dtype) for image in features]


def _nothing(count: int) -> Sequence[str]:
    return ()
