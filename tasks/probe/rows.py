"""Which rows are probed, what their images are, and a balanced choice of them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.probe import ProbeConfig
from schemas.taxonomy import Taxonomy
from tasks.audit.rows import check_labels, with_one_image
from tasks.balance import hash_keys


class Images(NamedTuple):
    """Images with their number of a type: the risk of any of their rows, of the highest level."""

    ids: list[str]
    types: np.ndarray


def rows_of(
    labelled: Path, encoded: pa.Array, split: str, *, config: ProbeConfig,
    taxonomy: Taxonomy,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of one image of a split, by sample id; of too many the first by hash.

    Args:
        labelled: what validate wrote.
        encoded: ids of the images with features.
        split: train or test.
        config: how many, and the hash's seed.
        taxonomy: whose types and levels the labels must be.
    """
    table, _ = with_one_image(labelled, encoded, splits=(split,))
    check_labels(table, taxonomy)
    rows = table.to_pylist()
    keys = hash_keys([row["sample_id"] for row in rows], seed=config.seed)
    kept = np.sort(np.argsort(keys, kind="stable")[: config.rows])
    return [rows[place] for place in kept]


def images_of(rows: list[dict[str, Any]], taxonomy: Taxonomy) -> Images:
    """The images of rows, by id: with some questions a risky picture is asked nothing risky."""
    worst: dict[str, tuple[int, str]] = {}
    for row in rows:
        own = (row["risk_level"], row["risk_type"])
        worst[row["image_id"]] = max(worst.get(row["image_id"], (-1, "")), own)
    ids = sorted(worst)
    number = {name: i for i, name in enumerate(taxonomy.type_ids)}
    return Images(ids, np.array([number[worst[name][1]] for name in ids]))


def balanced_cells(
    rows: list[dict[str, Any]], *, seed: int
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """(type, level) -> as many rows of it as the smallest such cell has, the first by hash."""
    cells: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["risk_type"], row["risk_level"]), []).append(row)
    size = min(map(len, cells.values()), default=0)
    chosen = {}
    for cell in sorted(cells):
        keys = hash_keys([row["sample_id"] for row in cells[cell]], seed=seed)
        order = np.argsort(keys, kind="stable")[:size]
        chosen[cell] = [cells[cell][place] for place in order]
    return chosen
