"""Benchmarks as lmms-lab keeps them on Hugging Face: Parquet with a row per question."""

from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from typing import Any

from schemas.samples import RawReject
from tasks.benchmarks.data import Data
from tasks.benchmarks.item import LostItem, Picture
from tasks.sources import parquet
from tasks.sources.fields import BadValue, image_refs

PATTERN = "**/*.parquet"


class HfRows:
    """The rows of all Parquet files of a folder; an image that many rows have is held once.

    Args:
        data: the folder.
        group: the group that a row belongs to, for rejects; by default it has none.
    """

    def __init__(self, data: Data, group: Callable[[dict[str, Any]], str] = lambda row: "") -> None:
        self.files = data.some(PATTERN)
        self._group = group
        self._held: dict[str, bytes] = {}

    def rows(self, *needed: str) -> Iterator[tuple[str, dict[str, Any]] | RawReject]:
        """(key, row) of every row with these columns and one image in `image`; else a reject.

        Raises:
            DataError: a file that is no readable Parquet.
        """
        for file in self.files:
            with parquet.opened(file) as table:
                for number, row in parquet.rows(table):
                    key = f"{file.name}:{number}"
                    yield self._checked(row, key, needed)

    def _checked(
        self, row: dict[str, Any] | str, key: str, needed: tuple[str, ...]
    ) -> tuple[str, dict[str, Any]] | RawReject:
        if isinstance(row, str):
            return RawReject(key, "bad_row", row)
        reject = partial(LostItem, key, group=self._group(row))
        missing = [name for name in (*needed, "image") if row.get(name) is None]
        if missing:
            return reject("missing_key", f"no {missing} among {sorted(row)}")
        try:
            refs = image_refs(row["image"])
        except BadValue as error:
            return reject("bad_value", str(error))
        if len(refs) != 1 or refs[0].data is None:
            return reject("image_missing", "one image with its bytes was expected")
        data = refs[0].data
        held = self._held.setdefault(sha256(data).hexdigest(), data)
        return key, {**row, "image": Picture(data=held)}
