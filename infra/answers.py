"""Answers that have been given, kept on disk: what was killed and runs again asks nothing twice.

One file of JSON Lines for each asker (a model with its settings, or a judge), only ever appended
to. A line that a crash has cut is passed over, and its question asked again.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.fingerprint import canonical, content_hash
from schemas.errors import StorageError

FOLDER = "answers"


class AnswerCache:
    """What one asker has answered, by the hash of the question.

    Args:
        asker: all that its answers depend on beside the question; no secrets.
    """

    def __init__(self, asker: Mapping[str, Any]) -> None:
        home = Path(os.environ.get("PSAVLM_CACHE") or ".psavlm/cache").absolute()
        self.path = home / FOLDER / f"{content_hash(asker)}.jsonl"
        self._known = dict(self._lines())

    def get(self, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer to a question, or None."""
        return self._known.get(_name(question))

    def add(self, question: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keep an answer: on the disk when this returns.

        Raises:
            StorageError: the cache's folder cannot be written.
        """
        name, kept = _name(question), dict(answer)
        line = canonical({"question": name, "answer": kept}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                # The newline first ends a line that a crash has cut. One write: others append too.
                file.write(f"\n{line}".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"cannot keep answers in {self.path.parent}: {error.strerror}; make room, or set "
                "PSAVLM_CACHE"
            ) from error
        self._known[name] = kept

    def clear(self) -> None:
        """Forget all: what the answers were for is done."""
        self._known.clear()
        self.path.unlink(missing_ok=True)

    def _lines(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                kept = json.loads(line)
                found.append((kept["question"], kept["answer"]))
            except (ValueError, KeyError, TypeError):
                continue
        return found


def _name(question: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(question).encode()).hexdigest()
