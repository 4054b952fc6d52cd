"""The rows that a head can be asked about, and why the others are left out."""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from infra.parts import read_parts
from schemas.errors import ConfigError
from schemas.samples import ROWS
from schemas.taxonomy import Taxonomy

COLUMNS = [
    "sample_id", "image_ids", "source", "source_key", "split", "messages", "risk_type",
    "risk_level",
]  # fmt: skip


def with_one_image(
    labelled: Path, encoded: pa.Array, *, splits: Collection[str]
) -> tuple[pa.Table, dict[str, int]]:
    """Rows with exactly one image that has features, by sample_id; the others, counted by reason.

    Args:
        labelled: what validate wrote.
        encoded: ids of the images with features.
        splits: the splits that are looked at.

    Returns:
        COLUMNS with `image_id` in place of `image_ids`; and counts of no_image, several_images and
        not_encoded, which with these rows make up all rows of the splits.
    """
    rows = read_parts(labelled / "rows", ROWS, columns=COLUMNS)
    rows = rows.filter(pc.is_in(rows["split"], value_set=pa.array(splits))).sort_by("sample_id")
    counts = pc.list_value_length(rows["image_ids"])
    single = rows.filter(pc.equal(counts, 1))
    images = pc.list_element(single["image_ids"], 0)
    known = pc.is_in(images, value_set=encoded)
    left_out = {
        "no_image": pc.sum(pc.equal(counts, 0)).as_py() or 0,
        "several_images": pc.sum(pc.greater(counts, 1)).as_py() or 0,
        "not_encoded": pc.sum(pc.invert(known)).as_py() or 0,
    }
    single = single.drop_columns("image_ids").append_column("image_id", images)
    return single.filter(known).combine_chunks(), left_out


def check_labels(rows: pa.Table, taxonomy: Taxonomy) -> None:
    """Whether all labels are of this taxonomy.

    Raises:
        ConfigError: rows have other types, or higher levels.
    """
    others = sorted(set(rows["risk_type"].unique().to_pylist()) - set(taxonomy.type_ids))
    top = len(taxonomy.levels) - 1
    higher = sorted(level for level in rows["risk_level"].unique().to_pylist() if level > top)
    if others or higher:
        raise ConfigError(
            f"the labels have types {others} and levels {higher} that taxonomy '{taxonomy.name}' "
            "has not: audit with the taxonomy that the rows were validated with (`taxonomy` on top "
            "of the preset)"
        )
