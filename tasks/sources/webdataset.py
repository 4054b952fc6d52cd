"""WebDataset shards: tars whose members share a key, an image and a JSON object per sample."""

import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from infra.places import Found, expand, open_file
from schemas.config import SourceConfig
from schemas.errors import DataError
from schemas.samples import RawRecord, RawReject
from tasks.sources.fields import Layout, layout, printable, record

KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
IMAGES = ("jpeg", "jpg", "png", "webp")
Member = tuple[str, str, bytes]  # key, extension, content


def read(source: SourceConfig, *, max_bytes: int) -> Iterator[RawRecord | RawReject]:
    """Tars of an image (png, jpg, jpeg, webp) and a json with question, type and if known answer,
    level, split; `columns.<field>=<key>` renames keys. Members over `max_bytes` are cut one byte
    above it, so that a hostile member costs no memory.

    Example: format=webdataset,uri=shards/{00000..00009}.tar
    """
    columns = layout(source, "canonical")
    for file in expand(source.uri):
        for key, group in groupby(_members(file, max_bytes), key=lambda member: member[0]):
            parts = {extension: content for _, extension, content in group}
            yield _record(parts, columns, printable(f"{file.name}:{key}"))


def _members(file: Found, max_bytes: int) -> Iterator[Member]:
    with open_file(file.uri) as data:
        try:
            with tarfile.open(fileobj=data, mode="r:*") as tar:
                for info in tar:
                    tar.members = []  # it would keep every header
                    match = KEY.match(info.name)
                    if match and info.isfile() and match[2].lower() in ("json", *IMAGES):
                        content = tar.extractfile(info).read(max_bytes + 1)
                        yield match[1], match[2].lower(), content
                _check_end(tar)
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise DataError(f"{file.uri!r} is not a whole tar: {error}") from error


def _check_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a damaged header, or a file cut short, for the end: samples would vanish."""
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(512) != bytes(512):
        raise tarfile.ReadError(f"damaged or cut short at byte {tar.offset}")


def _record(parts: dict[str, bytes], columns: Layout, key: str) -> RawRecord | RawReject:
    images = [parts[e] for e in IMAGES if e in parts]
    if "json" not in parts or not images:
        lacking = "image_missing" if "json" in parts else "missing_key"
        return RawReject(key, lacking, f"members: {sorted(parts)}")
    try:
        row: Any = json.loads(parts["json"])
    except (ValueError, RecursionError) as error:
        return RawReject(key, "bad_row", f"json member: {error}")
    if not isinstance(row, dict):
        return RawReject(key, "not_an_object", f"json member: {row!r:.80}")
    return record({**row, columns.columns["image"]: images}, layout=columns, key=key)
