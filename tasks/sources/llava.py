"""The LLaVA family: a JSON array of conversations, with or without an image."""

from typing import Any

from infra.places import expand
from schemas.config import SourceConfig
from schemas.samples import RawRecord, RawReject
from tasks.sources.fields import PLACEHOLDER, image_refs, message, plain
from tasks.sources.json_array import array_items
from tasks.sources.json_records import Items, parsed

ROLES = {"human": "user", "gpt": "assistant"}
KNOWN = ("image", "conversations")


def read(source: SourceConfig, *, max_bytes: int) -> Items:
    """LLaVA-Instruct and its relatives; the whole source is declared clean unless `labels` is set.

    One record is one sample with all its turns. Leading gpt turns are dropped, as LLaVA's own
    template does. `max_bytes` is not needed: images are paths.

    Example: format=llava,uri=llava_instruct_150k.json,images=coco/train2017
    """
    for file in expand(source.uri):
        for key, item in array_items(file):
            yield from parsed(item, key, _items)


def _items(item: dict[str, Any], key: str) -> Items:
    yield _record(item, key)


def _record(item: dict[str, Any], key: str) -> RawRecord | RawReject:
    turns = item.get("conversations")
    if not isinstance(turns, list) or not turns:
        return RawReject(key, "missing_key", f"no list 'conversations' among {sorted(item)}")
    messages = [message(turn, ROLES) for turn in turns]
    while messages and messages[0].role == "assistant":
        messages.pop(0)
    if any(m.role != ("user", "assistant")[i % 2] for i, m in enumerate(messages)):
        return RawReject(key, "turns_out_of_order", "human and gpt do not alternate")
    if not messages:
        return RawReject(key, "missing_key", "no human turn")
    if any(m.role == "assistant" and not m.text for m in messages):
        return RawReject(key, "empty_answer", "a gpt turn without text")
    images = image_refs(item.get("image"))
    if not images and any(PLACEHOLDER in turn["value"] for turn in turns):
        return RawReject(key, "missing_key", f"{PLACEHOLDER} in the text, but no 'image'")
    extra = {k: plain(v) for k, v in item.items() if k not in KNOWN}
    return RawRecord(key, tuple(messages), images, label="", extra=extra)
