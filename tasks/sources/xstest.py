"""XSTest: prompts without images that only look unsafe, and contrasts that are."""

from dataclasses import replace

from schemas.config import SourceConfig
from schemas.samples import RawRecord, RawReject
from tasks.sources import table
from tasks.sources.fields import BadValue, word
from tasks.sources.json_records import Items

CONTRAST = "contrast_"


def read(source: SourceConfig, *, max_bytes: int) -> Items:
    """XSTest's prompts, or a published file of completions with their classes, as CSV.

    A safe prompt is labelled "safe", an unsafe one by its type (contrast_...). Files without a
    column `label` are told apart by the type. Completions and classes go to `extra` as they are:
    they are other models' answers, and some classes are free text.

    Example: format=xstest,uri=xstest_prompts.csv,split=test
    """
    columns = {"question": "prompt", **source.columns}
    labels = source.labels or "xstest"
    given = {**source.model_dump(), "columns": columns, "labels": labels}
    for item in table.read(SourceConfig.model_validate(given), max_bytes=max_bytes):
        yield item if isinstance(item, RawReject) else _labelled(item)


def _labelled(item: RawRecord) -> RawRecord | RawReject:
    kind = item.label or ""
    by_type = "unsafe" if kind.startswith(CONTRAST) else "safe"
    try:
        stated = word(item.extra.get("label")) or by_type
    except BadValue as error:
        return RawReject(item.source_key, "bad_value", str(error))
    if {stated, by_type} == {"safe", "unsafe"}:
        told = f"label {stated!r} contradicts type {kind!r}"
        return RawReject(item.source_key, "bad_value", told)
    # A third word is handed on: the mapping does not list it and names file and row.
    return replace(item, label=kind if stated == "unsafe" else stated, slices={"kind": kind})
