"""`cache = "auto"`: are the features of these images kept, or encoded whenever they are read?

What they would take is counted before: images x patches x width x bytes of a number. A decision
stays as long as the artifact that came of it is there, though the disk has filled since.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc

from infra.disk import free_bytes
from infra.library import Library
from infra.parts import read_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EncodeConfig
from schemas.features import CacheDecision
from schemas.samples import ROWS
from tasks.base_model import FOLDER
from tasks.images import image_library

BYTES = {"float32": 4, "bfloat16": 2}
AUTO = "auto"
Made = Callable[[Literal["always", "never"]], Artifact | None]


def wanted(labelled: Path) -> list[str]:
    """The ids of all images that labelled rows refer to, sorted."""
    lists = read_parts(labelled / "rows", ROWS, columns=["image_ids"])["image_ids"]
    return pc.unique(pc.list_flatten(lists)).sort().to_pylist()


def decided(
    config: EncodeConfig,
    opened: Callable[[], Library],
    labelled: Artifact,
    base: Artifact,
    *,
    made: Made,
) -> CacheDecision | None:
    """What the setting comes to; None where that cannot be known before earlier steps have run.

    Args:
        config: how images are encoded, and what room they may take.
        opened: the features that the root has already.
        labelled: whose images.
        base: whose encoder.
        made: the artifact that came of `always` or of `never`, if it is there.
    """
    if config.cache != AUTO:
        return CacheDecision(cache=config.cache, why=f'cache = "{config.cache}"')
    if made("always"):
        return CacheDecision(cache="always", why="these features have been kept before")
    if made("never"):
        return CacheDecision(cache="never", why="it was decided before")
    library = opened()
    store = library.store
    if not all(store.find(one.step, one.fingerprint) for one in (labelled, base)):
        return None
    missing = library.missing(wanted(store.local(labelled)))
    if not missing:
        return CacheDecision(cache="always", why="the features of all images are there", images=0)
    needed = _needed(missing, store, store.local(base) / FOLDER, BYTES[config.dtype])
    room = _room(config, store.root)
    fits = room is None or needed <= room
    of = "no limit is set for a bucket" if room is None else f"{room:,} bytes may be taken"
    return CacheDecision(
        cache="always" if fits else "never",
        why=f"{needed:,} bytes of features {'fit' if fits else 'do not fit'}: {of}",
        images=len(missing),
        bytes_per_image=round(needed / len(missing)),
        bytes=needed,
        room=room,
    )


def _needed(image_ids: Sequence[str], store: Store, base: Path, size: int) -> int:
    """Bytes of the features of these images, each number of `size` bytes."""
    from model.backbones.sight import outline, patches_of

    eye = outline(base)
    if eye.patches is not None:
        return len(image_ids) * eye.patches * eye.vision_dim * size
    facts = image_library(store).facts(image_ids)
    shapes = facts.group_by(["height", "width"]).aggregate([([], "count_all")]).to_pylist()
    patches = sum(
        row["count_all"] * patches_of(eye, (row["height"], row["width"])) for row in shapes
    )
    return patches * eye.vision_dim * size


def _room(config: EncodeConfig, root: str) -> int | None:
    """Bytes that features may take; None for a bucket without a limit of its own."""
    if "://" in root:
        return config.cache_bytes
    free = int(free_bytes(Path(root)) * config.cache_share)
    return free if config.cache_bytes is None else min(free, config.cache_bytes)
