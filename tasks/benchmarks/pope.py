"""POPE: does a model see objects that are not there? Yes or no, three ways to draw the objects."""

import json
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from schemas.samples import RawReject
from tasks.benchmarks.data import Data
from tasks.benchmarks.hf import HfRows
from tasks.benchmarks.item import Benchmark, Item, Items, Measure, Picture, Row, Verdict
from tasks.sources.json_rows import json_lines

NO = ("No", "not", "no")
LAYOUT = (
    "coco_pope_random.json and others (JSON Lines), and their images in val2014/ or images/; or "
    "lmms-lab's Parquet files"
)


def read(data: Data) -> Items:
    """Every line of every file; the slice is the way in which its objects were drawn."""
    packed = HfRows(data)
    if packed.files:
        yield from _packed(packed)
        return
    images = data.folder("val2014", "images")
    for file in data.files("**/*pope*.json", "**/*pope*.jsonl"):
        drawn = PurePosixPath(file.name).stem
        for number, line, fault in json_lines(file):
            key = f"{file.name}:{number}"
            yield _item(line, key, drawn, images) if not fault else RawReject(key, "bad_row", fault)


def _packed(packed: HfRows) -> Items:
    for row in packed.rows("question_id", "question", "answer", "category"):
        if isinstance(row, RawReject):
            yield row
            continue
        key, cells = row
        line = {name: cells[name] for name in ("question_id", "image")}
        line |= {"text": cells["question"], "label": str(cells["answer"]).strip().lower()}
        yield _item(line, key, str(cells["category"]), "")


def _item(line: Any, key: str, drawn: str, images: str) -> Item | RawReject:
    needed = ("question_id", "image", "text", "label")
    if not isinstance(line, dict) or any(name not in line for name in needed):
        return RawReject(key, "missing_key", f"{', '.join(needed)} were expected")
    if line["label"] not in ("yes", "no"):
        return RawReject(key, "bad_value", f"label {line['label']!r:.40} is neither yes nor no")
    image = line["image"]
    return Item(
        id=f"{drawn}:{line['question_id']}",
        prompt=str(line["text"]),
        images=(image if isinstance(image, Picture) else Picture(images, str(image)),),
        target=line["label"],
        slices={"drawn": drawn},
        facts={"question_id": str(line["question_id"]), "category": drawn},
    )


def official_word(answer: str) -> str:
    """`no` if a word of the first sentence is No, not or no; `yes` for anything else."""
    first = answer.split(".")[0].replace(",", "")
    return "no" if any(word in NO for word in first.split(" ")) else "yes"


def _plain_word(answer: str) -> str:
    """lmms-eval: the whole answer; whatever is not yes or no is wrong, and neither."""
    return answer.lower().strip()


WORDS: dict[str, Callable[[str], str]] = {"official": official_word, "lmms-eval": _plain_word}


def decide(item: Item, answer: str, rule: str) -> Verdict:
    """Yes or no, by the rule's reading."""
    word = WORDS[rule](answer)
    known = word if word in ("yes", "no") else "other"
    return Verdict(known, right=word == item.target)


def official(rows: Sequence[Row], rule: str) -> dict[str, float]:
    """The five numbers of each file; 0 of 0 is 0 by lmms-eval, and otherwise left out."""
    found: dict[str, float] = {}
    for drawn in sorted({row["slices"]["drawn"] for row in rows}):
        own = [row for row in rows if row["slices"]["drawn"] == drawn]
        found |= {f"{drawn} {name}": value for name, value in _five(own, rule).items()}
    return found


def _five(rows: Sequence[Row], rule: str) -> dict[str, float]:
    pairs = [(row["verdict"], row["target"]) for row in rows]
    hits = pairs.count(("yes", "yes"))
    said = hits + pairs.count(("yes", "no"))
    # lmms-eval counts a miss only where the answer was no; other readings have no third word.
    there = hits + pairs.count(("no", "yes"))
    exact = [row["right"] for row in rows]
    yes = [truth if rule == "lmms-eval" else word for word, truth in pairs].count("yes")
    shares = {
        "accuracy": (sum(exact), len(exact)),
        "precision": (hits, said),
        "recall": (hits, there),
        "f1": (2 * hits, said + there),
        "yes_ratio": (yes, len(pairs)),
    }
    # The authors' script stops at 0 of 0.
    given = {name: pair for name, pair in shares.items() if pair[1] or rule == "lmms-eval"}
    return {name: part / whole if whole else 0.0 for name, (part, whole) in given.items()}


def results(rows: Sequence[Row]) -> dict[str, str]:
    """The answers that the authors' evaluation reads, a file for each way of drawing."""
    found: dict[str, str] = {}
    for row in rows:
        name = f"{row['slices']['drawn']}_answers.json"
        line = {"question_id": row["facts"]["question_id"], "answer": row["answer"]}
        found[name] = found.get(name, "") + json.dumps(line) + "\n"
    return found


BENCHMARK = Benchmark(
    about="objects that are not there: yes or no",
    layout=LAYOUT,
    read=read,
    measures=(
        Measure("accuracy", lambda row: row["right"]),
        Measure(
            "said_yes", lambda row: row["verdict"] == "yes" if row["right"] is not None else None
        ),
    ),
    official=official,
    decide=decide,
    results=results,
    rules={
        "official": "No, not or no in the first sentence is no, anything else yes",
        "lmms-eval": "the whole answer must be yes or no; its yes_ratio is that of the targets, "
        "which is a mistake",
    },
    longest=32,
    licence="MIT",
)
