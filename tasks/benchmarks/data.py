"""A benchmark's folder, local or s3://, as its user has it; nothing is downloaded."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.identity import Folder
from infra.places import Found, exists, expand, is_remote, open_file
from schemas.config import SourceConfig
from schemas.errors import DataError
from schemas.samples import RawRecord, RawReject
from tasks.sources import READERS

# A benchmark's annotations: SEED-Bench has 10 MB.
LONGEST_JSON = 500_000_000
LONGEST_IMAGE = 20_000_000


@dataclass(frozen=True)
class Data:
    """The folder `uri` of a benchmark with this `layout` (for messages).

    Raises:
        DataError: there is no such folder.
    """

    name: str
    uri: str
    layout: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", self.uri.rstrip("/") or "/")
        if not is_remote(self.uri) and not os.path.isdir(self.uri):
            raise DataError(
                f"--data {self.uri!r} is no folder: give the folder of your copy of {self.name}; "
                f"it holds {self.layout}"
            )

    @property
    def identity(self) -> str:
        """One hash over the content, or over sizes and times where there is a lot of it."""
        return Folder(self.uri).identity

    def files(self, *patterns: str) -> list[Found]:
        """The files that match the first pattern with any, such as `**/*.jsonl`; by name.

        Raises:
            DataError: no pattern has any.
        """
        for pattern in patterns:
            if found := self.some(pattern):
                return found
        raise DataError(
            f"{self.uri!r} has no {' and no '.join(patterns)}: a folder of {self.name} holds "
            f"{self.layout}; correct --data"
        )

    def some(self, pattern: str) -> list[Found]:
        """The files that match, or none."""
        place = f"{self.uri}/{pattern}"
        if not any(mark in pattern for mark in "*?["):
            return expand(place) if exists(place) else []
        try:
            return expand(place)
        except DataError:  # expand's word for a pattern without a file
            return []

    def one(self, *patterns: str) -> Found:
        """The one file that matches; DataError if there is none, or several to choose from."""
        found = self.files(*patterns)
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:5])
            raise DataError(
                f"{self.uri!r} has {len(found)} files for {self.name} ({names}): give a folder "
                "with the one that is meant"
            )
        return found[0]

    def folder(self, *names: str) -> str:
        """The first of these sub-folders that exists; the folder itself if none does."""
        places = (f"{self.uri}/{name}" for name in names)
        return next((place for place in places if exists(place)), self.uri)

    def parent(self, *patterns: str) -> str:
        """The folder of the first file that matches a pattern; DataError if there is none."""
        return self.files(*patterns)[0].uri.rpartition("/")[0]


def records(
    form: str, uri: str, *, images: str = "", **settings: Any
) -> Iterator[RawRecord | RawReject]:
    """The records of a file that one of the ingest's readers reads (tasks/sources)."""
    source = SourceConfig(format=form, uri=uri, images=images, split="test", **settings)
    return READERS[form].read(source, max_bytes=LONGEST_IMAGE)


def read_json(file: Found) -> Any:
    """A JSON file whole; DataError if it is none, or longer than any benchmark's."""
    try:
        with open_file(file.uri) as data:
            text = data.read(LONGEST_JSON + 1)
        if len(text) > LONGEST_JSON:
            raise ValueError(f"longer than {LONGEST_JSON} bytes")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.uri!r} is not readable JSON: {error}") from error
