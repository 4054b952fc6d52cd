"""What img2dataset leaves: images in tars, folders or Parquet, and Parquet that names all rows."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from infra.places import Found, exists, expand, read_below
from schemas.config import SourceConfig
from schemas.errors import DataError
from schemas.samples import ImageRef, RawRecord, RawReject
from tasks.sources import parquet
from tasks.sources.fields import printable
from tasks.sources.layout import Layout, layout
from tasks.sources.record import record
from tasks.sources.tar import IMAGES, groups

Row = dict[str, Any]


def read(source: SourceConfig, *, max_bytes: int) -> Iterator[RawRecord | RawReject]:
    """img2dataset's output (a folder, or its .tar or .parquet files); the caption is the question.

    A row that img2dataset could not fetch or resize is rejected with its status and message.
    Columns and constants as in `table`: give columns.type=, or labels=clean for all.

    Example: format=img2dataset,uri=shards,labels=clean
    """
    columns = layout(source, "canonical", usual={"question": "caption", "image": ""})
    for shard in shards(source):
        with parquet.opened(shard) as table:
            names = table.schema.names
            columns.check(names, shard.uri)
            if missing := [c for c in ("key", "status") if c not in names]:
                raise DataError(
                    f"{shard.uri!r} has no column {missing[0]!r}: img2dataset did not write it "
                    "(for other Parquet use format=table or hf-parquet)"
                )
            inside = _inside(table)
            if not inside and exists(_tar(shard)):
                yield from _from_tar(shard, table, columns, max_bytes)
                continue
            for key, row in _rows(table):
                own = row.pop(inside, None) if isinstance(row, dict) and inside else None
                image = own if inside else _beside(shard, key, max_bytes)
                yield _item(key, row, image, columns=columns, shard=shard)


def shards(source: SourceConfig) -> list[Found]:
    """The Parquet file of every shard: those that `uri` names, or all in it if it is a folder."""
    uri = source.uri.rstrip("/")
    if uri.endswith((".tar", ".parquet")):
        return expand(uri.removesuffix(".tar").removesuffix(".parquet") + ".parquet")
    every = {f.uri: f for f in expand(f"{uri}/*.[pt]a*")}
    found = [f for f in every.values() if f.uri.endswith(".parquet")]
    tars = {uri for uri in every if uri.endswith(".tar")}
    lost = sorted(tars ^ {_tar(f) for f in found}) if tars else []
    if lost:
        raise DataError(
            f"shard {lost[0]!r} is only half there: a .tar goes with a .parquet. Let img2dataset "
            "finish, or name the finished shards in uri="
        )
    return found


def files(source: SourceConfig) -> list[Found]:
    """All files of all shards, tars and folders of images included."""
    found = shards(source)
    for shard in list(found):
        if exists(_tar(shard)):
            found += expand(_tar(shard))
        elif exists(_folder(shard)):
            found += expand(f"{_folder(shard)}/*")
    return found


def _tar(shard: Found) -> str:
    return f"{_folder(shard)}.tar"


def _folder(shard: Found) -> str:
    return shard.uri.removesuffix(".parquet")


def _inside(table: parquet.Table) -> str:
    """The column that holds encoded images, named by their encoding; "" without any."""
    kinds = {f.name: f.type for f in table.schema}
    binary = (pa.binary(), pa.large_binary())
    return next((name for name in IMAGES if kinds.get(name) in binary), "")


def _rows(table: parquet.Table) -> Iterator[tuple[str, Row | str]]:
    """(key, row or what is wrong with it)."""
    for number, row in parquet.rows(table):
        key = row["key"] if isinstance(row, dict) else None
        yield f"row {number}" if key is None else printable(str(key)), row


def _from_tar(
    shard: Found, table: parquet.Table, columns: Layout, max_bytes: int
) -> Iterator[RawRecord | RawReject]:
    """Tars are not sorted: the shard's rows (without images) are held, the tar is streamed."""
    waiting: dict[str, Row | str] = {}
    for key, row in _rows(table):
        if key in waiting:
            yield RawReject(f"{shard.name}:{key}", "bad_row", f"key {key!r} is there twice")
        waiting.setdefault(key, row)
    (tar,) = expand(_tar(shard))
    for key, parts in groups(tar, IMAGES, max_bytes=max_bytes):
        row = waiting.pop(printable(key), None)
        if row is None:
            place = printable(f"{tar.name}:{key}")
            yield RawReject(place, "missing_key", f"{shard.name} has no row of this key")
        else:
            image = next((parts[e] for e in IMAGES if e in parts), None)
            yield _item(printable(key), row, image, columns=columns, shard=shard)
    for key, row in waiting.items():
        yield _item(key, row, None, columns=columns, shard=shard)


def _beside(shard: Found, key: str, limit: int) -> bytes | None:
    """The image file of a key in the shard's folder; a key that leads out of it has none."""
    for extension in IMAGES:
        try:
            return read_below(_folder(shard), f"{key}.{extension}", limit=limit)
        except OSError:
            continue
    return None


def _item(
    key: str, row: Row | str, image: bytes | None, *, columns: Layout, shard: Found
) -> RawRecord | RawReject:
    place = f"{shard.name}:{key}"
    if isinstance(row, str):
        return RawReject(place, "bad_row", row)
    if row["status"] != "success":
        told = f"{row['status']}: {row.get('error_message')}"
        failed = row["status"] == "failed_to_resize"
        return RawReject(place, "image_unreadable" if failed else "image_missing", told)
    if image is None:
        return RawReject(place, "image_missing", "its status is success, but no image is there")
    made = record(row, layout=columns, key=place)
    return made if isinstance(made, RawReject) else replace(made, images=(ImageRef(data=image),))
