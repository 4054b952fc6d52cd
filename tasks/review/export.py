"""A blinded pairwise review: answers of two models as A and B, and the key apart from them.

Only items that the two answered differently are shown: the others cannot tell them apart. Which
side a model is on is decided for each item by a hash with a secret of the key, so that neither the
reviewers' files nor a second review give it away.
"""

import csv
import hashlib
import io
import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import Count
from schemas.errors import ConfigError, DataError
from schemas.frozen import Frozen
from tasks.compare.step import check_same
from tasks.evaluate.step import ITEMS
from tasks.report.pictures import find_images, thumbnail

SHEET, PAGE = "review.csv", "review.html"
COLUMNS = ("item", "question", "answer_a", "answer_b", "better", "note")
CHOICES = ("a", "b", "tie")
# Where a model gave no answer. Why is not told: an endpoint's filter would name its model.
NOTHING = "(no answer)"
# A cell that begins so would be run by a spreadsheet.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class ReviewConfig(Frozen):
    """How many items are shown, and whether their images are blurred."""

    count: Count = 50
    blur: bool = True


class Key(Frozen):
    """The key: which model was A; `items` is item -> sample, group, and the model that is A.

    Attributes:
        format: of this file.
        old: the old model as it was named.
        new: the new one.
        secret: of the hash that chose the sides.
        items: by the item's name in the sheet.
    """

    format: int = 1
    old: str
    new: str
    secret: str = Field(repr=False)
    items: dict[str, dict[str, str]]


def export_review(
    config: ReviewConfig,
    names: tuple[str, str],
    evaluated: tuple[Artifact, Artifact],
    samples: Artifact,
    *,
    out: Path,
    key: Path,
) -> dict[str, Any]:
    """Write `review.csv` (to be filled in) and `review.html` (to be read) to `out`; the key apart.

    Args:
        config: how many items, and blurred or not.
        names: of the old model and of the new one.
        evaluated: their judged answers to the same items.
        samples: where the images are.
        out: a new folder for the reviewers.
        key: a new file, not inside of it.

    Raises:
        ConfigError: `out` or `key` exists, or the key would lie among what reviewers get.
        DataError: other items, or no two answers that differ.
    """
    _check(out, key)
    old, new = (_rows(one) for one in evaluated)
    check_same(old, new)
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a["answer"] != b["answer"]]
    if not pairs:
        raise DataError("the two models answer every item alike: there is nothing to be reviewed")
    secret = secrets.token_hex(16)
    chosen = sorted(pairs, key=lambda pair: _hash("item", secret, pair[0]["sample_id"]))
    shown = {f"r{place:03}": pair for place, pair in enumerate(chosen[: config.count], start=1)}
    sides = {name: _sides(pair, secret) for name, pair in shown.items()}
    pictures = _pictures([pair[0] for pair in shown.values()], samples, blur=config.blur)
    told = Key(
        old=names[0],
        new=names[1],
        secret=secret,
        items={
            name: {
                "sample_id": pair[0]["sample_id"],
                "group_id": pair[0]["group_id"],
                "a": sides[name][0],
            }
            for name, pair in shown.items()
        },
    )
    _write(out, shown, sides, pictures)
    try:
        key.write_text(told.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--key {str(key)!r} cannot be written: {error.strerror}") from error
    return {"out": str(out), "key": str(key), "items": len(shown), "differ": len(pairs)}


def _check(out: Path, key: Path) -> None:
    for option, path in (("--out", out), ("--key", key)):
        if path.exists():
            raise ConfigError(f"{option} {str(path)!r} exists already: give a new one")
    if out.absolute() in key.absolute().parents:
        raise ConfigError(
            f"--key {str(key)!r} lies in --out, which the reviewers get: give another place"
        )


def _rows(evaluated: Artifact) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    store = Store(evaluated.uri.rsplit("/", 2)[0])
    store.verify(evaluated)
    return pq.read_table(store.local(evaluated) / ITEMS).sort_by("sample_id").to_pylist()


def _sides(pair: tuple[Any, Any], secret: str) -> tuple[str, str, str]:
    """Which model is A (`old` or `new`), then the answers of A and of B."""
    old, new = pair
    told = {"old": old["answer"] or NOTHING, "new": new["answer"] or NOTHING}
    if int(_hash("side", secret, old["sample_id"]), 16) % 2:
        return "new", told["new"], told["old"]
    return "old", told["old"], told["new"]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _pictures(
    rows: Sequence[Mapping[str, Any]], samples: Artifact, *, blur: bool
) -> dict[str, bytes]:
    ids = {row["image_id"] for row in rows if row["image_id"]}
    images = find_images(samples, ids) if ids else {}
    return {name: thumbnail(image, blur=blur) for name, image in images.items()}


def _write(
    out: Path,
    shown: Mapping[str, tuple[Any, Any]],
    sides: Mapping[str, tuple[str, str, str]],
    pictures: Mapping[str, bytes],
) -> None:
    from base64 import b64encode

    from jinja2 import Environment, PackageLoader

    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(COLUMNS)
    items = []
    for name, (row, _) in shown.items():
        _, a, b = sides[name]
        writer.writerow([name, *map(_cell, (row["question"], a, b)), "", ""])
        image = pictures.get(row["image_id"] or "")
        data = f"data:image/png;base64,{b64encode(image).decode()}" if image else ""
        items.append({"name": name, "question": row["question"], "a": a, "b": b, "image": data})
    page = Environment(loader=PackageLoader("tasks.review", ""), autoescape=True)
    html = page.get_template("page.html.j2").render(items=items, sheet=SHEET)
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        # A spreadsheet takes a file for UTF-8 by its first bytes.
        (draft / SHEET).write_text(sheet.getvalue(), encoding="utf-8-sig")
        (draft / PAGE).write_text(html, encoding="utf-8")
        draft.rename(out)
    except OSError as error:
        raise ConfigError(f"--out {str(out)!r} cannot be written: {error.strerror}") from error


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def read_key(path: Path) -> Key:
    """The key of a review; ConfigError for a file that is none."""
    try:
        return Key.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{str(path)!r} is no key of a review: give the file that psavlm review wrote to --key"
        ) from error
