"""Groups and splits, which only all images together decide: no group is in two splits by chance."""

from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.config import IngestConfig
from schemas.samples import ROWS
from tasks.ingest.groups import group_images


def settled(table: pa.Table, images: pa.Table, *, config: IngestConfig) -> pa.Table:
    """Rows with their groups and splits, which only all images together decide.

    Args:
        table: rows of the schema ROWS without groups, and with stated splits or none.
        images: what is known of all their images (IMAGES), by id.
        config: the seed and shares of the splits, and what counts as a near duplicate.
    """
    ids = images["image_id"].to_pylist()
    place = {image_id: i for i, image_id in enumerate(ids)}
    shown = [[place[image_id] for image_id in own] for own in table["image_ids"].to_pylist()]
    together = [(own[0], other) for own in shown for other in own[1:]]
    first = group_images(
        images["phash"].to_pylist(),
        images["phash_quality"].to_pylist(),
        rows=np.array(together, dtype=np.int64).reshape(-1, 2),
        bits=config.near_duplicate_bits,
    )
    names = zip(shown, table["sample_id"].to_pylist(), strict=True)
    groups = [ids[first[own[0]]] if own else name for own, name in names]
    stated = table["split"].to_pylist()
    splits = [
        assign_split(split, group, config=config)
        for split, group in zip(stated, groups, strict=True)
    ]
    teaches = pc.if_else(pc.equal(pa.array(splits), "test"), "evaluation", table["supervises"])
    columns = {"group_id": pa.array(groups), "split": pa.array(splits), "supervises": teaches}
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), ROWS.field(name), column)
    return table


def assign_split(stated: str | None, group_id: str, *, config: IngestConfig) -> str:
    """The split of an image group: hashed, so that all items of an image share it.

    A stated train split gives its share to calibration too: without one no threshold could be set.
    """
    if stated in ("calibration", "test"):
        return stated
    digest = sha256(f"{config.seed}:{group_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < config.calibration:
        return "calibration"
    free = stated is None and place < config.calibration + config.test
    return "test" if free else "train"
