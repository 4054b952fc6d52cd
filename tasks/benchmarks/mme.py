"""MME: two questions about each image, yes or no, in fourteen tasks; acc and acc+ of each."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from infra.places import Found, open_file
from schemas.errors import DataError
from schemas.samples import RawReject
from tasks.benchmarks.data import Data
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

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR",
)  # fmt: skip
COGNITION = (
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip
TOTALS = {"perception": PERCEPTION, "cognition": COGNITION}
LAYOUT = (
    "a folder per task (existence, count, ..., code_reasoning) with images and for each a .txt of "
    "two lines, question, tab and Yes or No; or the two kinds in images/ and "
    "questions_answers_YN/; or lmms-lab's Parquet files"
)
TWO, HEAD = 2, 4
BREAKS = re.compile(r"[\t\r\n]")
ENDINGS = (".jpg", ".png", ".jpeg")


def read(data: Data) -> Items:
    """The questions of every task's folder."""
    packed = HfRows(data, lambda row: "/".join(_about(row)))
    if packed.files:
        yield from _packed(packed)
        return
    tasks = [task for tasks in TOTALS.values() for task in tasks if data.some(f"{task}/**/*.txt")]
    if not tasks:
        raise DataError(
            f"{data.uri!r} has no folder of a task of MME: it holds {data.layout}; correct --data"
        )
    for task in tasks:
        pictures = {PurePosixPath(f.name).stem: f for f in _pictures(data, task)}
        for file in data.some(f"{task}/**/*.txt"):
            yield from _questions(file, task, pictures)


def _packed(packed: HfRows) -> Items:
    """Rows of one question_id are the two questions about an image."""
    seen: Counter[str] = Counter()
    for row in packed.rows("question_id", "question", "answer", "category"):
        if isinstance(row, RawReject):
            yield row
            continue
        key, cells = row
        about = _about(cells)
        group, truth = "/".join(about), str(cells["answer"])
        if truth.strip().lower() not in ("yes", "no"):
            told = f"answer {truth!r:.40} is neither yes nor no"
            yield LostItem(key, "bad_value", told, group)
            continue
        seen[group] += 1
        asked = (seen[group], str(cells["question"]), truth)
        yield _item(group, about, cells["image"], asked)


def _about(cells: Mapping[str, Any]) -> tuple[str, str]:
    """Task and image; `question_id` is `task/image`, for both questions of an image."""
    return str(cells.get("category")), str(cells.get("question_id")).rpartition("/")[2]


def _pictures(data: Data, task: str) -> list[Found]:
    return [file for ending in ENDINGS for file in data.some(f"{task}/**/*{ending}")]


def _questions(file: Found, task: str, pictures: dict[str, Found]) -> Items:
    stem = PurePosixPath(file.name).stem
    key = f"{task}/{stem}"
    picture = pictures.get(stem)
    if picture is None:
        yield RawReject(key, "image_missing", f"no image of the name {stem}")
        return
    with open_file(file.uri) as text:
        lines = text.read(100_000).decode("utf-8-sig", errors="replace").splitlines()
    asked = [line.split("\t") for line in lines if line.strip()]
    right = [len(one) == TWO and one[1].strip().lower() in ("yes", "no") for one in asked]
    if len(asked) != TWO or not all(right):
        told = "two lines of question, tab and Yes or No were expected"
        yield RawReject(key, "bad_row", told)
        return
    folder, _, name = picture.uri.rpartition("/")
    for number, (question, truth) in enumerate(asked, start=1):
        yield _item(key, (task, name), Picture(folder, name), (number, question, truth))


def _item(
    group: str, about: tuple[str, str], picture: Picture, asked: tuple[int, str, str]
) -> Item:
    """An item of a pair: task and image's name; number, question and truth."""
    (task, name), (number, question, truth) = about, asked
    return Item(
        id=f"{group}:{number}",
        prompt=question.strip(),
        images=(picture,),
        target=truth.strip().lower(),
        group=group,
        slices={"task": task},
        facts={"question_id": f"{task}/{name}", "category": task, "image": name},
    )


def official_word(answer: str) -> str:
    """The evaluation tool's: yes or no, else which of them its first four characters hold."""
    return _word(answer.lower())


def _clean_word(answer: str) -> str:
    """lmms-eval's: without outer space and full stops, and y and n count."""
    text = answer.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    return _word(text)


def _word(text: str) -> str:
    if text in ("yes", "no"):
        return text
    return next((word for word in ("yes", "no") if word in text[:HEAD]), "other")


WORDS: dict[str, Callable[[str], str]] = {"official": official_word, "lmms-eval": _clean_word}


def decide(item: Item, answer: str, rule: str) -> Verdict:
    """Yes, no or other; other is wrong."""
    word = WORDS[rule](answer)
    return Verdict(word, right=word == item.target)


def official(rows: Sequence[Row], rule: str) -> dict[str, float]:
    """100 acc + 100 acc+ of each task; their sums where all of a kind are there."""
    found: dict[str, float] = {}
    for total, tasks in TOTALS.items():
        scores = [(task, _scores(rows, task)) for task in tasks]
        there = {task: score for task, score in scores if score}
        for task, (acc, acc_plus) in there.items():
            found |= {f"{task} acc": acc, f"{task} acc+": acc_plus, task: acc + acc_plus}
        if len(there) == len(tasks):
            found[total] = sum(acc + plus for acc, plus in there.values())
    return found


def _scores(rows: Sequence[Row], task: str) -> tuple[float, float] | None:
    """acc and acc+ in percent; None for a task without rows."""
    own = [row for row in rows if row["slices"]["task"] == task]
    if not own:
        return None
    acc = sum(bool(row["right"]) for row in own) / len(own)
    hits = group_hits((row, row["right"]) for row in own)
    asked = Counter(row["group"] for row in own)
    both = sum(hit and asked[group] == TWO for group, hit in hits.items()) / len(hits)
    return 100 * acc, 100 * both


def results(rows: Sequence[Row]) -> dict[str, str]:
    """A file for each task, as the evaluation tool reads it: image, question, truth, response."""
    found: dict[str, str] = {}
    for row in rows:
        name = f"{row['slices']['task']}.txt"
        # A tab or a new line in an answer would be read as another column or question; other space
        # stays, since the tool counts it among the first four characters.
        answer = BREAKS.sub(" ", row["answer"])
        cells = (row["facts"]["image"], row["prompt"], row["target"].capitalize(), answer)
        found[name] = found.get(name, "") + "\t".join(cells) + "\n"
    return found


BENCHMARK = Benchmark(
    about="perception and cognition, two yes-or-no questions about each image",
    layout=LAYOUT,
    read=read,
    measures=(
        Measure("accuracy", lambda row: row["right"]),
        Measure("accuracy_plus", lambda row: row["right"], "all"),
        Measure(
            "other", lambda row: row["verdict"] == "other" if row["right"] is not None else None
        ),
    ),
    official=official,
    decide=decide,
    results=results,
    rules={
        "official": "yes or no within the first four characters, in small letters",
        "lmms-eval": "the same after outer space and full stops are taken away; y and n count",
    },
    longest=32,
)
