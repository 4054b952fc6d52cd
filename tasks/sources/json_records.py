"""What formats of JSON objects share: JSON Lines or an array, and rejects for what is no object."""

from collections.abc import Callable, Iterator
from typing import Any

from infra.places import Found
from schemas.samples import RawRecord, RawReject
from tasks.sources.fields import BadValue
from tasks.sources.json_array import array_items, top_level
from tasks.sources.json_rows import checked, json_lines

Items = Iterator[RawRecord | RawReject]
Parse = Callable[[dict[str, Any], str], Items]  # a record and its key -> its items


def json_records(found: Found, parse: Parse) -> Items:
    """The items of a file of JSON Lines or of one JSON array, whatever its name ends in.

    Raises:
        DataError: the file cannot be read, or holds an array that is cut or damaged.
    """
    if top_level(found) != b"[":
        yield from _lines(found, parse)
        return
    for key, value in array_items(found):
        yield from parsed(value, key, parse)


def parsed(value: Any, key: str, parse: Parse) -> Items:
    """What `parse` makes of an object; a reject for anything else and for a BadValue."""
    value, fault = checked(value)
    if fault:
        yield RawReject(key, "bad_row", fault)
        return
    if not isinstance(value, dict):
        yield RawReject(key, "not_an_object", f"{value!r:.80}")
        return
    try:
        yield from parse(value, key)
    except BadValue as error:
        yield RawReject(key, "bad_value", str(error))


def lacking(item: dict[str, Any], key: str, *needed: str) -> RawReject | None:
    """A reject that names the needed keys which are missing, null or empty, if any are."""
    missing = [k for k in needed if item.get(k) in (None, "", [])]
    return RawReject(key, "missing_key", f"no {missing} among {sorted(item)}") if missing else None


def _lines(found: Found, parse: Parse) -> Items:
    for number, value, fault in json_lines(found):
        key = f"{found.name}:{number}"
        if fault:
            yield RawReject(key, "bad_row", fault)
        else:
            yield from parsed(value, key, parse)
