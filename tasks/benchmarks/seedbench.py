"""SEED-Bench: multiple choice about single images, nine dimensions; video is left out."""

import json
from collections.abc import Sequence
from typing import Any

from schemas.errors import DataError
from schemas.samples import RawReject
from tasks.benchmarks.data import Data, read_json
from tasks.benchmarks.item import Benchmark, Item, Items, Measure, Picture, Row, Verdict
from tasks.benchmarks.refusals import PERCENT

LETTERS = "ABCD"
ASK = "Reply with the letter of the right option and nothing else."
LAYOUT = "SEED-Bench.json and SEED-Bench-image/ with the images that its data_id name"
NEEDED = ("question_id", "question", "answer", "question_type_id", "data_id", "data_type")


def read(data: Data) -> Items:
    """The questions of the one JSON file; those about video or several images are rejects."""
    file = data.one("SEED-Bench.json", "*SEED*.json", "**/*SEED*.json")
    images = data.folder("SEED-Bench-image", "images")
    whole = read_json(file)
    questions = whole.get("questions") if isinstance(whole, dict) else None
    if not isinstance(questions, list):
        raise DataError(
            f"{file.uri!r} has no list 'questions': give SEED-Bench's own file, not results"
        )
    names = whole.get("question_type")
    kinds = names if isinstance(names, dict) else {}
    types = {str(number): str(name) for name, number in kinds.items()}
    for number, question in enumerate(questions, start=1):
        yield _item(question, f"{file.name}:{number}", types, images)


def _item(asked: Any, key: str, types: dict[str, str], images: str) -> Item | RawReject:
    choices = [f"choice_{letter.lower()}" for letter in LETTERS]
    if not isinstance(asked, dict) or any(name not in asked for name in (*NEEDED, *choices)):
        return RawReject(key, "missing_key", f"{', '.join((*NEEDED, *choices))} were expected")
    if asked["data_type"] == "video":
        return RawReject(key, "video", "a question about a video")
    if not isinstance(asked["data_id"], str):
        return RawReject(key, "several_images", "a question about several images")
    options = {c: str(asked[name]) for c, name in zip(LETTERS, choices, strict=True)}
    listed = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    kind = str(asked["question_type_id"])
    return Item(
        id=str(asked["question_id"]),
        prompt=f"{asked['question']}\n{listed}\n{ASK}",
        images=(Picture(images, asked["data_id"]),),
        target=str(asked["answer"]),
        options=options,
        ranked=str(asked["question"]),
        slices={"dimension": types.get(kind, kind)},
        facts={"question_id": str(asked["question_id"])},
    )


def decide(item: Item, answer: str, rule: str) -> Verdict:
    """Whether the prediction is the letter.

    lmms-eval takes the answer's first character for it, in either case. By the official rule it is
    the letter of the option whose text has the least loss.
    """
    word = answer
    if rule == "lmms-eval":
        word = answer.strip()[:1].upper()
    return Verdict(word if word in item.options else "other", right=word == item.target)


def official(rows: Sequence[Row], rule: str) -> dict[str, float]:
    """Percent right in each dimension and over all questions."""
    found = {"total": [row["right"] for row in rows]}
    for row in rows:
        found.setdefault(row["slices"]["dimension"], []).append(row["right"])
    return {name: PERCENT * sum(hits) / len(hits) for name, hits in found.items() if hits}


def results(rows: Sequence[Row]) -> dict[str, str]:
    """Lines as the leaderboard takes them: question_id and prediction."""
    lines = [{"question_id": row["item_id"], "prediction": row["answer"]} for row in rows]
    return {"results.json": "".join(json.dumps(line) + "\n" for line in lines)}


BENCHMARK = Benchmark(
    about="multiple choice about images, nine dimensions",
    layout=LAYOUT,
    read=read,
    measures=(
        Measure("accuracy", lambda row: row["right"]),
        Measure(
            "other", lambda row: row["verdict"] == "other" if row["right"] is not None else None
        ),
    ),
    official=official,
    decide=decide,
    results=results,
    ranked_by=("official",),
    rules={
        "official": "the model ranks the texts of the options by its loss on them; the likeliest "
        "is its prediction (a model here; published predictions are taken as they are)",
        "letter": "the model writes the letter and nothing else, as in LLaVA's evaluation",
        "lmms-eval": "the first character of the answer is the prediction, in either case",
    },
    longest=16,
    licence="Apache-2.0",
)
