"""Answers that were given before, as files of results hold them: scored again, nothing is asked."""

import json
from collections.abc import Sequence
from typing import Any

from infra.identity import identity
from infra.places import open_file
from schemas.errors import DataError
from tasks.respond.responder import Ask, Kept, Responder, Told

IDS = ("item_id", "sample_id", "question_id", "index", "id")
TEXTS = ("prediction", "answer", "text", "response")
LONGEST = 500_000_000
UNANSWERED = "not_in_file"


def replay(path: str) -> Responder:
    """A file of JSON Lines, or a JSON array, with an id and an answer each.

    Names of the id: item_id, sample_id, question_id, index or id; of the answer: prediction,
    answer, text or response. A comma at the end of a line is passed over (SEED-Bench's published
    results have it). Without ids the answers are taken in the order of asking. Items that are not
    in the file count as unanswered.

    Raises:
        DataError: no such file, a line that is none, or an id twice.
    """
    lines = read_results(path)
    by_name: dict[str, str] = {}
    for line in lines:
        name = next((str(line[key]) for key in IDS if key in line), None)
        if name is not None and name in by_name:
            raise DataError(f"{path!r}: id {name!r:.80} is there twice; leave one answer to each")
        by_name |= {} if name is None else {name: _text(line)}
    if by_name and len(by_name) < len(lines):
        raise DataError(f"{path!r}: some lines have an id and some have none; give all or none")
    texts = [_text(line) for line in lines]

    def answer(asks: Sequence[Ask], longest: int, kept: Kept) -> None:
        for place, ask in enumerate(asks):
            if by_name:
                found = next((by_name[name] for name in ask.names if name in by_name), None)
            else:
                found = texts[ask.number] if ask.number < len(texts) else None
            kept(place, Told("", fault=UNANSWERED) if found is None else Told(found))

    known = {"answers": identity(path)}
    return Responder("given answers", known, lambda: answer, free=True)


def read_results(path: str) -> list[dict[str, Any]]:
    """The lines of a file of results: JSON Lines, with or without commas, or one array."""
    with open_file(path) as file:
        text = file.read(LONGEST + 1).decode("utf-8-sig", errors="replace")
    if text.lstrip().startswith("["):
        found = _parsed(text, path, 1)
        rows = found if isinstance(found, list) else [found]
    else:
        numbered = enumerate(text.splitlines(), start=1)
        rows = [
            _parsed(line.strip().removesuffix(","), path, n) for n, line in numbered if line.strip()
        ]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not any(name in row for name in TEXTS):
            raise DataError(
                f"{path!r}: entry {number} has no answer; an object with one of "
                f"{', '.join(TEXTS)} was expected"
            )
    return rows


def _parsed(text: str, path: str, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path!r}: line {number} is not JSON: {error}") from error


def _text(line: dict[str, Any]) -> str:
    return next(str(line[name]) for name in TEXTS if name in line)
