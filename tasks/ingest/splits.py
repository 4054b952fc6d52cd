"""Groups and splits, which only all images together decide: no group is in two splits by chance."""

from collections.abc import Iterable, Iterator
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.digests import digests
from schemas.config import IngestConfig
from schemas.samples import ROWS
from tasks.ingest.groups import group_images
from tasks.ingest.rows import Rows


def settled(rows: Rows, images: pa.Table, *, config: IngestConfig) -> Iterator[pa.Table]:
    """Rows by sample_id with their groups and splits, which only all images together decide.

    Args:
        rows: without groups, and with stated splits or none.
        images: what is known of all their images (IMAGES), by id.
        config: the seed and shares of the splits, and what counts as a near duplicate.
    """
    known = digests(images["image_id"])
    lists = (table["image_ids"] for table in rows.tables(["image_ids"]))
    first = group_images(
        images["phash"],
        images["phash_quality"].to_numpy(),
        rows=_together(lists, known),
        bits=config.near_duplicate_bits,
    )
    names = images["image_id"].combine_chunks()
    for table in rows.tables():
        shown, row = _shown(table["image_ids"], known)
        own = np.full(len(table), -1)
        own[row[::-1]] = first[shown[::-1]]  # of several images the first, which comes last here
        group = names.take(pa.array(own, mask=own < 0))
        yield _settled(table, pc.coalesce(group, table["sample_id"]), config)


def _settled(table: pa.Table, groups: pa.ChunkedArray, config: IngestConfig) -> pa.Table:
    pairs = zip(table["split"].to_pylist(), groups.to_pylist(), strict=True)
    splits = pa.array([assign_split(*pair, config=config) for pair in pairs], pa.string())
    teaches = pc.if_else(pc.equal(splits, "test"), "evaluation", table["supervises"])
    columns = {"group_id": groups, "split": splits, "supervises": teaches}
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), ROWS.field(name), column)
    return table


def _shown(image_ids: pa.ChunkedArray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every image that the rows show, by its place in `known`, and its row: [M] each, in order."""
    lists = image_ids.combine_chunks()
    places = np.searchsorted(known, digests(lists.flatten()))
    return places, lists.value_parent_indices().to_numpy()


def _together(lists: Iterable[pa.ChunkedArray], known: np.ndarray) -> np.ndarray:
    """[M, 2] images that one row shows one after the other."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for image_ids in lists:
        shown, row = _shown(image_ids, known)
        same = row[1:] == row[:-1]
        pairs.append(np.stack([shown[:-1][same], shown[1:][same]], axis=1))
    return np.concatenate(pairs)


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
