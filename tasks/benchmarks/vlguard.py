"""VLGuard's test set: unsafe images, and safe ones with unsafe and with safe questions."""

import ast
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from infra.places import open_file
from schemas.errors import DataError
from schemas.phrases import PhraseList
from schemas.samples import RawReject
from tasks.benchmarks.data import Data
from tasks.benchmarks.from_records import risk_of
from tasks.benchmarks.item import Benchmark, Item, Items, Picture, Row
from tasks.benchmarks.refusals import ATTACK, OVER_REFUSAL, percent
from tasks.sources.fields import text
from tasks.sources.json_array import array_items
from tasks.sources.json_records import lacking, parsed
from tasks.sources.vlguard import asked_as

LAYOUT = (
    "test.json and the images of test.zip in test/; and utils/utils.py of the authors' repository, "
    "if answers are to be judged by their phrases"
)
# The authors' list is the literal of this name in their own file; we do not ship it.
FILE, LIST = "utils/utils.py", "reject_list"
WHOLE = ("it is not",)


def read(data: Data) -> Items:
    """Every question of every record, also of the 17 whose published response is empty."""
    file = data.one("test.json", "data/test.json", "**/test.json")
    images = data.folder("test", "data/VLGuard/test", "images")
    for key, record in array_items(file):
        yield from parsed(record, key, partial(_items, images=images))


def _items(record: dict[str, Any], key: str, *, images: str) -> Any:
    if refused := lacking(record, key, "image", "instr-resp"):
        yield refused
        return
    for number, pair in enumerate(record["instr-resp"], start=1):
        yield _item(record, pair, key=f"{key}/{number}", images=images)


def _item(record: dict[str, Any], pair: Any, *, key: str, images: str) -> Item | RawReject:
    asked = asked_as(pair)
    if asked is None:
        return RawReject(key, "missing_key", "no question of a known kind")
    name, subset = asked
    label = str(record.get("harmful_subcategory", "safe"))
    return Item(
        id=key,
        prompt=text(pair[name]),
        images=(Picture(images, str(record["image"])),),
        wants="answer" if subset == "safe_safes" else "refusal",
        kind=risk_of(label, "vlguard"),
        slices={"subset": subset, "category": label},
        facts={"image": str(record["image"])},
    )


def own_phrases(data: Data) -> PhraseList | None:
    """The authors' phrases from the user's copy of their repository; None if it is not there.

    As they match them: within the lower-cased answer, so that a phrase with a capital never fires;
    and one answer counts as it stands.

    Raises:
        DataError: the file holds no such list.
    """
    found = data.some(FILE)
    if not found:
        return None
    with open_file(found[0].uri) as file:
        code = file.read(1_000_000).decode("utf-8", errors="replace")
    try:
        phrases = _literal(code)
    except (SyntaxError, ValueError) as error:
        raise DataError(
            f"{found[0].uri!r} holds no list {LIST!r} of texts ({error}): give the authors' file, "
            "take it away, or name another list with --judge phrases:..."
        ) from error
    return PhraseList(
        version=1, name="vlguard", origin="the authors' file", fold="answer", phrases=phrases,
        whole=WHOLE,
    )  # fmt: skip


def _literal(code: str) -> tuple[str, ...]:
    """The texts of the list; the file is read, never run."""
    for node in ast.walk(ast.parse(code)):
        named = isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets]
        if isinstance(node, ast.Assign) and named == [LIST]:
            found = ast.literal_eval(node.value)
            if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
                return tuple(found)
    raise ValueError("not found")


def official(rows: Sequence[Row], rule: str) -> dict[str, float]:
    """ASR in percent on the two subsets that the authors judge by phrases, to two decimals."""
    named = percent(rows, ATTACK, by="subset", name="ASR")
    needless = percent(rows, OVER_REFUSAL, by="subset", name="refused")
    return {name: round(value, 2) for name, value in (named | needless).items()}


def results(rows: Sequence[Row]) -> dict[str, str]:
    """A file for each subset, image to answer, as the authors' evaluation writes it."""
    subsets: dict[str, dict[str, str]] = {}
    for row in rows:
        own = subsets.setdefault(f"{row['slices']['subset']}.json", {})
        own[row["facts"]["image"]] = row["answer"]
    return {name: json.dumps(answers, indent=1) for name, answers in subsets.items()}


BENCHMARK = Benchmark(
    about="unsafe images, and safe ones with unsafe and with safe questions",
    layout=LAYOUT,
    read=read,
    measures=(ATTACK, OVER_REFUSAL),
    official=official,
    phrases="psavlm",
    own_phrases=own_phrases,
    results=results,
    rubric="complied",
    judged_by="phrases",
    caveat="on safe_safes the authors let GPT-4V compare with stored answers, which is benchmark "
    "vlguard-helpful; here the share of needless refusals is told",
)
