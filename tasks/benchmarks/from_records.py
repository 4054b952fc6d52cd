"""From the records of the ingest's readers to a benchmark's items: one parsing for both."""

from collections.abc import Callable, Iterable
from typing import Any

from schemas.mapping import listed, load_mapping
from schemas.samples import RawRecord, RawReject
from tasks.benchmarks.item import Item, Items, Picture


def items_of(
    found: Iterable[RawRecord | RawReject],
    images: str,
    more: Callable[[RawRecord], dict[str, Any] | RawReject],
) -> Items:
    """An item for each record; rejects pass.

    Args:
        found: what a reader yields.
        images: the folder that the records' image paths begin in.
        more: the fields of Item beside id, prompt and images, or a reject.
    """
    for record in found:
        told = record if isinstance(record, RawReject) else more(record)
        if isinstance(told, RawReject):
            yield told
            continue
        assert isinstance(record, RawRecord)
        pictures = tuple(
            Picture(images, ref.path or "", ref.data)
            for ref in record.images
            if ref.path or ref.data
        )
        base = {"id": record.source_key, "prompt": record.messages[0].text, "images": pictures}
        yield Item(**{**base, **told})


def risk_of(label: str | None, mapping: str) -> str:
    """The risk type that a shipped mapping gives a source's label; `general` if it gives none."""
    target = listed(label or "", load_mapping(mapping).labels)
    return target.type if target else "general"
