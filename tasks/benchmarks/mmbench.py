"""MMBench: multiple choice, each question once for every rotation of its options (circular)."""

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.samples import RawRecord, RawReject
from tasks.benchmarks.data import Data, records
from tasks.benchmarks.groups import group_hits
from tasks.benchmarks.hf import HfRows
from tasks.benchmarks.item import (
    Benchmark,
    Item,
    Items,
    LostItem,
    Measure,
    Picture,
    Row,
    Verdict,
)
from tasks.benchmarks.letters import letter_of
from tasks.benchmarks.refusals import PERCENT

LETTERS = "ABCDEFGH"
ROTATION = 1_000_000
ABSENT = ("", "nan", "none")
LONGEST_INDEX = 64  # a shorter text in `image` is the index of the row that has the image
ASK = "Reply with the letter of the right option and nothing else."
LAYOUT = (
    "one .tsv with index, question, hint, A, B, ..., answer, category and image in base64; or "
    "lmms-lab's Parquet files of one split"
)


def read(data: Data) -> Items:
    """The rows of the table; a row without an answer (the test split) has no target."""
    packed = HfRows(data, _group)
    if packed.files:
        for row in packed.rows("index", "question"):
            yield row if isinstance(row, RawReject) else _packed(*row)
        return
    file = data.one("*.tsv", "**/*.tsv")
    # Which columns hold what is MMBench's own: all of them travel in `extra`.
    columns = {"image": "", "answer": "", "level": "", "split": "", "language": ""}
    found = records("table", file.uri, columns=columns, constants={"type": "clean"})
    pictures: dict[str, bytes] = {}
    for record in found:
        yield record if isinstance(record, RawReject) else _item(record, pictures)


def _packed(key: str, cells: dict[str, Any]) -> Item | RawReject:
    return _question(key, cells, _text(cells["question"]), cells["image"])


def _item(record: RawRecord, pictures: dict[str, bytes]) -> Item | RawReject:
    index = _text(record.extra.get("index"))
    data = _picture(str(record.extra.get("image") or ""), index, pictures)
    if index.isdecimal() and data is None:
        told = "image is no base64 and no index"
        return LostItem(record.source_key, "image_missing", told, _group(record.extra))
    question = record.messages[0].text
    return _question(record.source_key, record.extra, question, Picture(data=data))


def _question(
    key: str, cells: Mapping[str, Any], question: str, picture: Picture
) -> Item | RawReject:
    cell = cells.get
    index = _text(cell("index"))
    options = {c: text for c in LETTERS if (text := _text(cell(c)))}
    if not index.isdecimal() or not options:
        return LostItem(key, "missing_key", "index and options were expected", _group(cells))
    hint = _text(cell("hint"))
    listed = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    slices = {"category": _text(cell("category")), "l2": _text(_either(cell))}
    return Item(
        id=index,
        prompt="\n".join(filter(None, [hint, question, listed, ASK])),
        images=(picture,),
        target=_text(cell("answer")).upper(),
        options=options,
        group=_group(cells),
        slices={name: value for name, value in slices.items() if value},
        facts={"index": index, "question": question, "hint": hint, **options},
    )


def _group(cells: Mapping[str, Any]) -> str:
    """The index of the question that a row is a rotation of; empty for a row without an index."""
    index = _text(cells.get("index"))
    return str(int(index) % ROTATION) if index.isdecimal() else ""


def _either(cell: Any) -> Any:
    return cell("l2-category") or cell("L2-category")


def _text(value: Any) -> str:
    """A cell as text; what pandas writes for a missing one is empty."""
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in ABSENT else text


def _picture(cell: str, index: str, pictures: dict[str, bytes]) -> bytes | None:
    if not index.isdecimal():
        return None
    if len(cell) <= LONGEST_INDEX:
        # Rotations come after their question; without a reference they share its image.
        known = pictures.get(cell or str(int(index) % ROTATION))
        if known is not None:
            pictures[index] = known
        return known
    try:
        pictures[index] = base64.b64decode(cell, validate=True)
    except binascii.Error:
        return None
    return pictures[index]


def decide(item: Item, answer: str, rule: str) -> Verdict:
    """The letter that the answer means; where there is none it is wrong, or drawn by `random`."""
    word = letter_of(answer, item.options)
    if not word and rule == "random":
        # By the question's name, so that two runs draw alike.
        draw = hashlib.sha256(f"{item.id}\t{answer}".encode()).digest()
        choices = [*item.options, "Z"]
        word = choices[int.from_bytes(draw[:8], "big") % len(choices)]
    return Verdict(word or "none", right=word == item.target if item.target else None)


def official(rows: Sequence[Row], rule: str) -> dict[str, float]:
    """Percent of questions of which every rotation is right, overall and by ability.

    A question of which a rotation has no answer is wrong; one without any answer is left out.
    """
    told = [row for row in rows if row["right"] is not None]
    hits = group_hits((row, row["right"]) for row in told)
    if not hits:
        return {}
    firsts = {row["group"]: row["slices"] for row in reversed(told)}
    found = {"overall": _percent(list(hits.values()))}
    for by in ("l2", "category"):
        for value in sorted({slices[by] for slices in firsts.values() if by in slices}):
            own = [hit for group, hit in hits.items() if firsts[group].get(by) == value]
            found[value] = _percent(own)
    unrotated = [bool(row["right"]) for row in told if row["item_id"] == row["group"]]
    return found | ({"vanilla": _percent(unrotated)} if unrotated else {})


def _percent(hits: Sequence[bool]) -> float:
    return PERCENT * sum(hits) / len(hits)


BENCHMARK = Benchmark(
    about="multiple choice in all rotations of the options",
    layout=LAYOUT,
    read=read,
    measures=(
        Measure("circular_accuracy", lambda row: row["right"], "all"),
        Measure("accuracy", lambda row: row["right"]),
    ),
    official=official,
    decide=decide,
    rules={
        "official": "an answer without a letter or an option's text is wrong (exact matching)",
        "random": "such an answer draws an option, as the tool does where its judge fails; by the "
        "question's name, so that it can be repeated",
    },
    longest=64,
    caveat="the official tool lets a language model match answers that its rule cannot place; here "
    "they are wrong",
)
