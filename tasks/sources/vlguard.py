"""VLGuard: a JSON array; safe images with a safe and an unsafe question, unsafe ones with one."""

from typing import Any

from infra.places import expand
from schemas.config import SourceConfig
from schemas.samples import RawRecord, RawReject
from tasks.sources.fields import BadValue, image_refs, plain, question_answer, text
from tasks.sources.json_array import array_items
from tasks.sources.json_records import Items, parsed

KNOWN = ("image", "safe", "harmful_category", "harmful_subcategory", "instr-resp")
# Question key -> the published evaluation subset that such an item belongs to.
SUBSETS = {
    "instruction": "unsafes",
    "safe_instruction": "safe_safes",
    "unsafe_instruction": "safe_unsafes",
}


def read(source: SourceConfig, *, max_bytes: int) -> Items:
    """VLGuard's train.json or test.json: one item per question. Labels are about the image.

    Every question on a safe image is labelled "safe", the unsafe instruction too (the authors'
    choice); on an unsafe image the label is the subcategory. `max_bytes` is not needed.

    Example: format=vlguard,uri=VLGuard/train.json,images=VLGuard/train,split=train
    """
    for file in expand(source.uri):
        for key, item in array_items(file):
            yield from parsed(item, key, _items)


def _items(item: dict[str, Any], key: str) -> Items:
    pairs = item.get("instr-resp")
    needed = ("image", "safe", "instr-resp")
    missing = [k for k in needed if k not in item]
    if item.get("safe") is False and "harmful_subcategory" not in item:
        missing.append("harmful_subcategory")
    if missing or not isinstance(pairs, list) or not pairs:
        yield RawReject(key, "missing_key", f"{missing or 'instr-resp is empty'}: {sorted(item)}")
        return
    for number, pair in enumerate(pairs, start=1):
        try:
            yield _record(item, pair, key=f"{key}/{number}")
        except BadValue as error:
            yield RawReject(f"{key}/{number}", "bad_value", str(error))


def _record(item: dict[str, Any], pair: Any, *, key: str) -> RawRecord | RawReject:
    if not isinstance(item["safe"], bool):
        # "false" as a text is true in Python: it would turn a risky image into a clean one.
        raise BadValue(f"safe is {item['safe']!r}, true or false was expected")
    asked = asked_as(pair)
    if asked is None or "response" not in pair:
        return RawReject(key, "missing_key", f"one of {list(SUBSETS)} and 'response': {pair!r:.80}")
    question, answer = asked[0], text(pair["response"])
    if not answer:
        return RawReject(key, "empty_answer", f"empty response to {question}")
    label = "safe" if item["safe"] else text(item["harmful_subcategory"])
    own = {k: plain(v) for k, v in pair.items() if k not in (*SUBSETS, "response")}
    shared = {f"record.{k}" if k in own else k: plain(v) for k, v in item.items() if k not in KNOWN}
    return RawRecord(
        source_key=key,
        messages=question_answer(text(pair[question]), answer),
        images=image_refs(item["image"]),
        label=label,
        extra={**shared, **own, "subset": SUBSETS[question]},
    )


def asked_as(pair: Any) -> tuple[str, str] | None:
    """Question key of an instruction-response pair, and its subset; None if it is not one."""
    asked = [k for k in SUBSETS if isinstance(pair, dict) and k in pair]
    return (asked[0], SUBSETS[asked[0]]) if len(asked) == 1 else None
