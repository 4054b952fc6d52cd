"""What table-like formats share: a row with named fields -> a record."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.config import SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.explain import did_you_mean
from schemas.samples import ImageRef, Message, RawRecord, RawReject
from schemas.taxonomy import load_mapping

FIELDS = ("question", "answer", "image", "type", "level", "split", "id", "language")
PLACEHOLDER = "<image>"


class BadValue(ValueError):
    """A field holds something that its format does not allow; the row is rejected."""


@dataclass(frozen=True)
class Layout:
    """Which column holds which field. `stated` are those that the source names itself."""

    columns: Mapping[str, str]
    stated: frozenset[str]
    label_free: bool

    def check(self, found: Collection[str], place: str) -> None:
        """DataError if a mandatory column, or one that the source names, is not there."""
        wanted = {"question"} | self.stated | (set() if self.label_free else {"type"})
        missing = [self.columns[f] for f in FIELDS if f in wanted and self.columns[f] not in found]
        if missing:
            raise DataError(
                f"{place}: column {missing[0]!r} is missing; found {sorted(found)}. "
                "Name it with columns.<field>=<column>, fields: " + ", ".join(FIELDS)
            )


def layout(source: SourceConfig, default_labels: str) -> Layout:
    """The columns of a source; ConfigError for a field that does not exist."""
    unknown = sorted(set(source.columns) - set(FIELDS))
    if unknown:
        raise ConfigError(
            f"columns.{unknown[0]}: no such field; {did_you_mean(unknown[0], FIELDS)}fields: "
            f"{', '.join(FIELDS)}"
        )
    return Layout(
        columns={f: source.columns.get(f, f) for f in FIELDS},
        stated=frozenset(source.columns),
        label_free="" in load_mapping(source.labels or default_labels).labels,
    )


def record(row: Mapping[str, Any], *, layout: Layout, key: str) -> RawRecord | RawReject:
    """One row -> one record, or the reason why not; columns without a field go to `extra`."""
    columns = layout.columns
    needed = ("question",) if layout.label_free else ("question", "type")
    for name in needed:
        if columns[name] not in row:
            return RawReject(key, "missing_key", f"no {columns[name]!r} among {sorted(row)}")
    cell = {f: row.get(columns[f]) for f in FIELDS}
    used = {columns[f] for f in FIELDS if f != "id"}
    try:
        return RawRecord(
            source_key=key,
            messages=question_answer(text(cell["question"]), text(cell["answer"])),
            images=image_refs(cell["image"]),
            label=word(cell["type"]) if columns["type"] in row else "",
            level=word(cell["level"]) or None,
            split=word(cell["split"]) or None,
            language=text(cell["language"]),
            extra={k: plain(v) for k, v in row.items() if k not in used},
        )
    except BadValue as error:
        return RawReject(key, "bad_value", str(error))


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
            f"{value!r} is {type(value).__name__}, a word or a whole number was expected"
        )
    return str(value).strip()


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
        if isinstance(data, bytes) or (data is None and isinstance(path, str | None)):
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
