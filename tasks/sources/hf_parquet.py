"""Parquet as Hugging Face's `datasets` writes it: images as structs, classes as numbers."""

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from infra.places import Found, expand
from schemas.config import SourceConfig
from schemas.errors import DataError
from schemas.samples import RawRecord, RawReject
from tasks.sources import parquet
from tasks.sources.layout import Layout, layout
from tasks.sources.record import record


def files(source: SourceConfig) -> list[Found]:
    """The Parquet files that `uri` names, or all below it if it is a folder."""
    uri = source.uri.rstrip("/")
    return expand(uri if uri.endswith(".parquet") else f"{uri}/**/*.parquet")


def read(source: SourceConfig, *, max_bytes: int) -> Iterator[RawRecord | RawReject]:
    """Hugging Face Parquet, files or a folder, with question, type and if known answer, level.

    The image is the column `image`, else the only one of type Image: bytes, a path below
    `images`, a list of these, or null for text alone. `columns.` and `constants.` as in `table`.
    Bytes are handed on as they are: whether they are an image shows when they are decoded.

    Example: format=hf-parquet,uri=data/train-*.parquet,columns.type=category
    """
    columns = layout(source, "canonical")
    for file in files(source):
        with parquet.opened(file) as table:
            found = _with_image(columns, table, file.uri)
            found.check(table.schema.names, file.uri)
            for number, row in parquet.rows(table):
                key = f"{file.name}:{number}"
                if isinstance(row, str):
                    yield RawReject(key, "bad_row", row)
                else:
                    yield record(row, layout=found, key=key)


def _with_image(columns: Layout, table: parquet.Table, place: str) -> Layout:
    """The layout with the file's own image column where neither source nor format names one."""
    if "image" in columns.stated or "image" in table.schema.names:
        return columns
    found = [f.name for f in table.schema if _holds_images(f, table)]
    if len(found) > 1:
        raise DataError(
            f"{place}: several columns hold images: {', '.join(found)}; choose with "
            f"columns.image=, such as columns.image={'+'.join(found)} for all in this order"
        )
    return replace(columns, columns={**columns.columns, "image": "".join(found)})


def _holds_images(field: pa.Field, table: parquet.Table) -> bool:
    if parquet.features(table).get(field.name, {}).get("_type") == "Image":
        return True
    kind = field.type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_struct(kind) and {f.name for f in kind} == {"bytes", "path"}
