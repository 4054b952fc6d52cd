"""What table-like formats share: a row with named fields -> a record."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from schemas.mapping import listed
from schemas.samples import RawRecord, RawReject
from tasks.sources.fields import BadValue, image_refs, plain, printable, question_answer, text, word
from tasks.sources.layout import SLICE, Layout

JOINT = " / "
LONGEST_SLICE = 64


def record(row: Mapping[str, Any], *, layout: Layout, key: str) -> RawRecord | RawReject:
    """One row -> one record, or the reason why not; columns without a field go to `extra`."""
    missing = [c for c in layout.needed if c not in row]
    if missing:
        return RawReject(key, "missing_key", f"no {missing[0]!r} among {sorted(row)}")
    try:
        labels = _labels(row, layout)
        placed = [w for w in labels if not listed(w, layout.mapping.unplaced)]
        if labels and not placed:
            why = listed(labels[0], layout.mapping.unplaced)
            return RawReject(key, "label_without_type", f"{labels[0]!r}: {why}")
        return _record(row, placed, layout=layout, key=key)
    except BadValue as error:
        return RawReject(key, "bad_value", str(error))


def _record(row: Mapping[str, Any], labels: list[str], *, layout: Layout, key: str) -> RawRecord:
    cell = {f: _cell(row, f, layout) for f in ("question", "answer", "level", "split", "language")}
    slices, used = _slices(row, layout), set(layout.used)
    if not _trusted(row, layout):
        cell["answer"] = None
        used -= set(layout.names("answer"))
    # A slice that is a whole text is named by its digest: the text itself travels in `extra`.
    used -= {layout.columns[SLICE + k] for k, v in slices.items() if v.startswith("sha256:")}
    images = [row.get(c) for c in layout.names("image")]
    return RawRecord(
        source_key=key,
        messages=question_answer(text(cell["question"]), text(cell["answer"])),
        images=image_refs(images),
        label=labels[0] if labels else None,
        also=tuple(labels[1:]),
        level=word(cell["level"]) or None,
        split=word(cell["split"]) or None,
        language=text(cell["language"]),
        slices=slices,
        extra={k: plain(v) for k, v in row.items() if k not in used},
    )


def _cell(row: Mapping[str, Any], field: str, layout: Layout) -> Any:
    return layout.constants.get(field, row.get(layout.columns.get(field, "")))


def _labels(row: Mapping[str, Any], layout: Layout) -> list[str]:
    """The row's words for its risks; [""] if it says nothing and nothing is what it should say."""
    if "type" in layout.constants:
        return [layout.constants["type"]]
    found = [label for part in layout.columns["type"].split("|") for label in _label(row, part)]
    silent = "" in found or not any(c in row for c in layout.names("type"))
    return [label for label in found if label] or [""] * silent


def _label(row: Mapping[str, Any], columns: str) -> list[str]:
    """The labels in one column (a cell may be a list), or the one that columns `a+b` make."""
    cells = [row.get(c) for c in columns.split("+")]
    if len(cells) > 1:
        words = [word(cell) or "" for cell in cells]
        return [JOINT.join(words)] if any(words) else []
    found = [word(item) for item in (cells[0] if isinstance(cells[0], list) else cells)]
    return [label for label in found if label is not None]


def _trusted(row: Mapping[str, Any], layout: Layout) -> bool:
    rule = layout.answer_when
    return rule is None or word(row.get(rule.column)) in rule.words


def _slices(row: Mapping[str, Any], layout: Layout) -> dict[str, str]:
    """Group -> value; a text too long for a name becomes its digest, no value no entry."""
    found = {}
    for name in layout.slices:
        cell = _cell(row, SLICE + name, layout)
        value = str(cell).lower() if isinstance(cell, bool) else printable(word(cell) or "")
        if len(value) > LONGEST_SLICE:
            value = f"sha256:{sha256(value.encode()).hexdigest()[:12]}"
        if value:
            found[name] = value
    return found
