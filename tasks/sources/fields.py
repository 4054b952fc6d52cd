"""Values as sources write them -> texts, words, images and plain JSON."""

import math
from collections.abc import Mapping
from typing import Any

from schemas.samples import ImageRef, Message
from tasks.sources.layout import FIELDS

__all__ = [
    "FIELDS",
    "PLACEHOLDER",
    "BadValue",
    "image_refs",
    "plain",
    "printable",
    "question_answer",
    "text",
    "word",
]

PLACEHOLDER = "<image>"
# Characters of one turn: a long novel.
LONGEST_TEXT = 1_000_000


class BadValue(ValueError):
    """A field holds something that its format does not allow; the row is rejected."""


def message(turn: Any, roles: Mapping[str, str]) -> Message:
    """A turn {from, value} of a conversation; `roles` maps its speakers to ours."""
    speaker, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (0, 0)
    if speaker not in list(roles) or not isinstance(value, str):
        raise BadValue(
            f"turn {turn!r:.80}: 'from' (one of {list(roles)}) and 'value' were expected"
        )
    return Message(roles[speaker], text(value))


def question_answer(question: str, answer: str) -> tuple[Message, ...]:
    """One turn each; no assistant turn where there is no answer."""
    turns = (Message("user", question), Message("assistant", answer))
    return turns if answer else turns[:1]


def text(value: Any) -> str:
    """A text without the image placeholder and outer white space; None is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadValue(f"{value!r:.80} is {type(value).__name__}, text was expected")
    if len(value) > LONGEST_TEXT:
        raise BadValue(f"a text of {len(value)} characters, at most {LONGEST_TEXT} are read")
    if "\0" in value:
        # What others read as the end of the text: they would see another one than we do.
        raise BadValue(f"{value!r:.80} holds a NUL character")
    return _unicode(value).replace(PLACEHOLDER, "").strip()


def _unicode(value: str) -> str:
    """JSON can escape half a character; such a text has no bytes, hence no hash and no file."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadValue(f"{value!r:.80} is not valid Unicode") from error
    return value


def word(value: Any) -> str | None:
    """A label, level or split as its source writes it; numbers become digits, missing is None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadValue(
            f"{value!r:.80} is {type(value).__name__}, a word or a whole number was expected"
        )
    return _unicode(str(value).strip())


def image_refs(value: Any) -> tuple[ImageRef, ...]:
    """A path, bytes, a Hugging Face image struct {bytes, path}, a list of these, or nothing."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (ImageRef(path=_unicode(value)),)
    if isinstance(value, bytes):
        return (ImageRef(data=value),)
    if isinstance(value, list):
        return tuple(ref for item in value for ref in image_refs(item))
    if isinstance(value, dict) and set(value) <= {"bytes", "path"}:
        data, path = value.get("bytes"), value.get("path")
        if isinstance(data, bytes) or (data is None and isinstance(path, str) and path):
            return image_refs(path if data is None else data)
    raise BadValue(f"image {value!r:.80} is {type(value).__name__}, a path was expected")


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NaN becomes null, bytes their number, the unknown its text."""
    if isinstance(value, Mapping):
        return {printable(str(k)): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return printable(value)
    return value if isinstance(value, int | float | None) else printable(str(value))


def printable(value: str) -> str:
    """A text with a question mark for every half character."""
    return value.encode(errors="replace").decode()
