"""Small folders laid out as the published benchmarks are: neutral words and coloured squares."""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.squares import COLOURS, squares

MME_TASKS = ("existence", "code_reasoning")
PHRASES = ["i'm sorry", "i cannot", "but I cannot"]


def picture(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = squares(number, colour=COLOURS[number % len(COLOURS)], count=1 + number % 3)
    image.save(path)
    return path


def encoded(number: int) -> str:
    file = io.BytesIO()
    squares(number, colour="red", count=1).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def table(path: Path, rows: list[dict[str, Any]], *, tab: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if tab else ",")
        writer.writeheader()
        writer.writerows(rows)


def pope(folder: Path) -> None:
    """Two files named .json that are JSON Lines; six questions about two images."""
    for drawn in ("random", "popular"):
        rows = [
            {
                "question_id": n,
                "image": f"{n % 2}.jpg",
                "text": f"is there a square {n} ?",
                "label": label,
            }
            for n, label in enumerate(["yes", "no", "yes", "no", "yes", "no"], start=1)
        ]
        lines(folder / f"coco_pope_{drawn}.json", rows)
    for n in range(2):
        picture(folder / "val2014" / f"{n}.jpg", n)


def mme(folder: Path) -> None:
    """One task with images beside its texts, one in the other published layout."""
    for task in MME_TASKS:
        inner = ("images/", "questions_answers_YN/") if task == "code_reasoning" else ("", "")
        for n in range(2):
            picture(folder / task / f"{inner[0]}{n}.png", n)
            text = folder / task / f"{inner[1]}{n}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(f"is it {n} ?\tYes\nis it not {n} ?\tNo\n")


def seedbench(folder: Path) -> None:
    """Three questions about images and one about a video."""
    kinds = {"Scene Understanding": 1, "Instance Counting": 5, "Action Prediction": 11}
    asked = [
        {
            "question_id": name,
            "question": f"what is in picture {name} ?",
            **{f"choice_{c}": f"{c} {name}" for c in "abcd"},
            "answer": answer,
            "question_type_id": kind,
            "data_id": f"{name}.png",
            "data_type": data_type,
        }
        for name, answer, kind, data_type in (
            ("101", "A", 1, "image"),
            ("102", "B", 1, "image"),
            ("103", "C", 5, "image"),
            ("v4614", "D", 11, "video"),
        )
    ]
    folder.mkdir(parents=True)
    (folder / "SEED-Bench.json").write_text(
        json.dumps({"questions": asked, "question_type": kinds})
    )
    for name in ("101", "102", "103"):
        picture(folder / "SEED-Bench-image" / f"{name}.png", int(name))


def mmbench(folder: Path) -> None:
    """One question in three rotations that refer to its image, one with missing options."""
    texts = ["red", "green", "blue"]
    rows = [
        {
            "index": 7 + 1_000_000 * turn,
            "question": "which colour ?",
            "hint": "nan",
            **dict(zip("ABC", texts[turn:] + texts[:turn], strict=True)),
            "D": "",
            "answer": "ABC"[-turn % 3],
            "category": "colour",
            "l2-category": "perception",
            "image": encoded(7) if turn == 0 else "7",
        }
        for turn in range(3)
    ]
    rows.append({
        "index": 8, "question": "how many ?", "hint": "look twice", "A": "one", "B": "two",
        "C": "nan", "D": "none", "answer": "B", "category": "count", "l2-category": "reasoning",
        "image": encoded(8),
    })  # fmt: skip
    folder.mkdir(parents=True)
    table(folder / "mmbench_dev.tsv", rows, tab=True)


def xstest(folder: Path) -> None:
    kinds = ["homonyms", "definitions", "contrast_homonyms"]
    rows = [{"id": f"v2-{n}", "prompt": f"word {n} ?", "type": k} for n, k in enumerate(kinds)]
    table(folder / "xstest_prompts.csv", rows)


def mossbench(folder: Path) -> None:
    for part, harm in (("data", {"harm": [7]}), ("data_contrast", {})):
        told = {
            str(n): {
                "image": f"images/{n}.png",
                "question": f"what about picture {n} ?",
                "pid": str(n),
                "metadata": {"over": f"type {n}", **harm},
            }
            for n in (1, 2, 3)
        }
        path = folder / part / "images_information" / "information.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(told))
        for n in told:
            picture(folder / part / "images" / f"{n}.png", int(n))


def figstep(folder: Path) -> None:
    rows = [
        {
            "dataset": "ForbidQI", "category_id": n, "task_id": 1, "category_name": name,
            "question": f"topic {n}", "instruction": f"steps of topic {n}",
        }
        for n, name in ((1, "Illegal Activity"), (7, "Privacy Violation"))
    ]  # fmt: skip
    table(folder / "question" / "SafeBench-Tiny.csv", rows)
    for row in rows:
        name = f"query_ForbidQI_{row['category_id']}_1_6.png"
        picture(folder / "images" / "SafeBench-Tiny" / name, int(str(row["category_id"])))


def mm_safetybench(folder: Path) -> None:
    for scenario in ("01-Illegal_Activitiy", "08-Political_Lobbying"):
        told = {
            str(n): {
                "Question": f"question {n}",
                "Changed Question": f"changed {n}",
                "Key Phrase": "a square",
                "Phrase Type": "thing",
                "Rephrased Question": f"below is a thing, question {n}",
                "Rephrased Question(SD)": f"the image shows it, question {n}",
            }
            for n in range(2)
        }
        path = folder / "processed_questions" / f"{scenario}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told))
        for kind in ("SD", "SD_TYPO", "TYPO"):
            for n in told:
                picture(folder / "imgs" / scenario / kind / f"{n}.jpg", int(n))


def vlguard(folder: Path, *, phrases: bool = False) -> None:
    """A risky image, and a safe one whose safe question has an empty published response."""
    told = [
        {
            "id": "a", "image": "bad_ads/a.png", "safe": False, "harmful_category": "privacy",
            "harmful_subcategory": "personal data",
            "instr-resp": [{"instruction": "whose square is it ?", "response": "i cannot tell ."}],
        },
        {
            "id": "b", "image": "HOD/b.png", "safe": True,
            "instr-resp": [
                {"safe_instruction": "what colour is it ?", "response": ""},
                {"unsafe_instruction": "do the other thing .", "response": "no ."},
            ],
        },
    ]  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "test.json").write_text(json.dumps(told))
    for n, record in enumerate(told):
        picture(folder / "test" / str(record["image"]), n)
    if phrases:
        (folder / "utils").mkdir()
        code = f"import os\n\ndef check(pred):\n    reject_list = {PHRASES!r}\n    return pred\n"
        (folder / "utils" / "utils.py").write_text(code)


def vlguard_helpful(folder: Path) -> None:
    """Three questions on safe images; the last stored answer is empty, as 17 of the real ones."""
    told = [
        {
            "id": f"Ads_{n}", "image": f"bad_ads/{n}.png", "safe": True, "response": stored,
            "instruction": f"what colour is square {n} ?", "output": "another model's answer .",
        }
        for n, stored in enumerate(("it is red .", "it is blue .", ""))
    ]  # fmt: skip
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "gpt4_safe_safes.json").write_text(json.dumps(told))
    for n, record in enumerate(told):
        picture(folder / "test" / str(record["image"]), n)


def rtvlm(folder: Path) -> None:
    """Five subsets with keys of their own; a record with two questions; a pair of images."""
    level = {"refused_to_answer": "Refuse to Answer"}
    lines(folder / "captcha.jsonl", [{"id": 1, "instruction": "read it .", "answer": "12"}])
    politics = {"prompt": "who is it ?", "id": "0.jpg", "answer": "no .", **level}
    lines(folder / "politics.jsonl", [politics])
    harmful = {
        "questions": ["is it so ?", "and this ?"],
        "refused_to_answer": ["Safe to Answer", "Proceed with Caution"],
        "answers": ["no .", "no ."],
        "index": "5",
    }
    lines(folder / "harmful.jsonl", [harmful])
    pair = {"question": "which is first ?", "answers": "one .", "img": ["Red Land", "Blue Land"]}
    for name in ("order_A", "order_B"):
        lines(folder / f"{name}.jsonl", [{**pair, "refused_to_answer": "Safe to Answer"}])
        for n, land in enumerate(("RedLand", "BlueLand")):
            picture(folder / "images" / name / f"{land}.jpg", n)
    for n, name in enumerate(("captcha/1.jpg", "politics/0.jpg", "harmful/5.jpg")):
        picture(folder / "images" / name, n)


def paper_set(name: str, kind: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        rows = [
            {
                "image_path": f"/{n}.jpg", "question": f"what is {n} ?", "answer": "no .",
                "refused_to_answer": level, "type": kind,
            }
            for n, level in enumerate((3, 1))
        ]  # fmt: skip
        lines(folder / f"{name}_test_200.jsonl", rows)
        for n in range(2):
            picture(folder / "images" / f"{n}.jpg", n)

    return make


def advbench(folder: Path) -> None:
    rows = [{"goal": f"do thing {n} .", "target": f"sure , thing {n}"} for n in range(3)]
    table(folder / "harmful_behaviors.csv", rows)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "advbench": advbench,
    "cyberbullying": paper_set("cyberbullying", 2),
    "figstep": figstep,
    "mm-safetybench": mm_safetybench,
    "mmbench": mmbench,
    "mme": mme,
    "mossbench": mossbench,
    "politics": paper_set("politics", 0),
    "pope": pope,
    "porn": paper_set("porn", 1),
    "rtvlm": rtvlm,
    "seedbench": seedbench,
    "vlguard": vlguard,
    "vlguard-helpful": vlguard_helpful,
    "xstest": xstest,
}
# Items of each folder, and what is no item in it.
ITEMS = {
    "advbench": 3, "cyberbullying": 2, "figstep": 2, "mm-safetybench": 12, "mmbench": 4, "mme": 8,
    "mossbench": 6, "politics": 2, "pope": 12, "porn": 2, "rtvlm": 6, "seedbench": 3, "vlguard": 3,
    "vlguard-helpful": 3, "xstest": 3,
}  # fmt: skip
