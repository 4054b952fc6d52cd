"""The gate's decisions in a store's root: `decisions/1.json`, `2.json`, … each written once."""

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from infra.files import Files
from infra.lease import leased
from schemas.decision import Decision
from schemas.errors import StorageError

FOLDER = "decisions"
READERS = 8
_NAME = re.compile(r"([1-9]\d*)\.json")


@contextlib.contextmanager
def deciding(root: str) -> Iterator[None]:
    """Hold the right to decide; wait while another living process holds it.

    It spares work and keeps two processes from registering one model at once. That no decision is
    lost or overwritten does not depend on it: see `add_decision`.
    """
    with leased(Files.at(root), FOLDER):
        yield


def read_decisions(root: str) -> list[Decision]:
    """All decisions in order.

    Raises:
        StorageError: one is missing or cannot be read: the history would be another one.
    """
    files = Files.at(root)
    names = map(_NAME.fullmatch, files.sizes(FOLDER))
    numbers = sorted(int(name[1]) for name in names if name)
    if numbers != list(range(1, len(numbers) + 1)):
        raise StorageError(
            f"decisions in {files.address}/{FOLDER} are {numbers}, so that one is missing; bring "
            "it back from a backup: champions follow from the whole history"
        )
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda number: _read(files, number), numbers))


def add_decision(root: str, decision: Decision) -> bool:
    """Write a decision under its number; False if this number has been taken meanwhile."""
    text = decision.model_dump_json(indent=1, exclude={"repeated"})
    return Files.at(root).put(_path(decision.number), text.encode(), fresh=True)


def _read(files: Files, number: int) -> Decision:
    data = files.read(_path(number))
    try:
        return Decision.model_validate_json(data or b"")
    except ValidationError:
        raise StorageError(
            f"{files.address}/{_path(number)} cannot be read as a decision; bring it back from a "
            "backup: champions follow from the whole history"
        ) from None


def _path(number: int | None) -> str:
    return f"{FOLDER}/{number}.json"
