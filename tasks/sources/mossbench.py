"""MOSSBench: harmless questions about pictures that models refuse out of oversensitivity."""

from functools import partial
from typing import Any

from infra.places import expand
from schemas.config import SourceConfig
from schemas.samples import Message, RawRecord
from tasks.sources.fields import image_refs, plain, printable, text, word
from tasks.sources.json_array import object_items
from tasks.sources.json_records import Items, lacking, parsed

KINDS = {"type 1": "exaggerated risk", "type 2": "negated harm", "type 3": "counterintuitive"}


def read(source: SourceConfig, *, max_bytes: int) -> Items:
    """MOSSBench's information.json, for evaluation only; the label is the kind of stimulus.

    The twins of the contrast set are harmful, and known by the lack of `harm` in their metadata:
    their label is "contrast", which no mapping of ours lists. `max_bytes` is not needed.

    Example: format=mossbench,uri=MOSSBench/information.json,images=MOSSBench,split=test
    """
    for file in expand(source.uri):
        for name, value in object_items(file):
            yield from parsed(value, f"{file.name}:{printable(name)}", _item)


def _item(item: dict[str, Any], key: str) -> Items:
    if refused := lacking(item, key, "question", "image", "metadata"):
        yield refused
        return
    metadata = item["metadata"]
    yield from parsed(metadata, key, partial(_record, item=item))


def _record(metadata: dict[str, Any], key: str, *, item: dict[str, Any]) -> Items:
    if refused := lacking(metadata, key, "over"):
        yield refused
        return
    stimulus = word(metadata["over"]) or ""
    kind = KINDS.get(stimulus, stimulus)
    yield RawRecord(
        source_key=key,
        messages=(Message("user", text(item["question"])),),
        images=image_refs(item["image"]),
        label=stimulus if "harm" in metadata else "contrast",
        slices={"kind": kind},
        extra={k: plain(v) for k, v in item.items() if k not in ("question", "image")},
    )
