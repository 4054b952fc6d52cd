"""WebDataset shards: tars whose members share a key, an image and a JSON object per sample."""

import re
from collections.abc import Iterator, Mapping

from infra.places import expand
from schemas.config import SourceConfig
from schemas.samples import RawRecord, RawReject
from tasks.sources.fields import printable
from tasks.sources.json_rows import parse
from tasks.sources.layout import Layout, layout
from tasks.sources.record import record
from tasks.sources.tar import IMAGES, groups


def read(source: SourceConfig, *, max_bytes: int) -> Iterator[RawRecord | RawReject]:
    """Tars of images, each with a json that holds question, type and if known answer, level, split.

    Images are bmp, gif, jpg, jpeg, png, webp. `columns.` and `constants.` as in `table`. A json
    that says `"image": null` is text alone; one without an image beside it is rejected.

    Example: format=webdataset,uri=shards/{00000..00009}.tar
    """
    columns = layout(source, "canonical")
    for file in expand(source.uri):
        for key, parts in groups(file, ("json", *IMAGES), max_bytes=max_bytes):
            place = printable(f"{file.name}:{key}")
            steps = re.split(r"[/\\]", key)
            if ".." in steps or not steps[0]:
                yield RawReject(place, "path_outside_folder", "its name leads out of the tar")
            else:
                yield _record(parts, columns, place)


def _record(parts: Mapping[str, bytes | None], columns: Layout, key: str) -> RawRecord | RawReject:
    told = f"members: {sorted(map(printable, parts))}"
    if "json" not in parts:
        return RawReject(key, "missing_key", told)
    row, fault = parse(parts["json"] or b"")
    if fault:
        return RawReject(key, "bad_row", f"json member: {fault}")
    if not isinstance(row, dict):
        return RawReject(key, "not_an_object", f"json member: {row!r:.80}")
    images = [parts[e] for e in IMAGES if e in parts]
    column = (columns.names("image") or ["image"])[0]
    if not images and row.get(column, "") is not None:
        return RawReject(key, "image_missing", told)
    return record({**row, column: images}, layout=columns, key=key)
