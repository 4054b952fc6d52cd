"""A JSON file whose top level is an array, read record by record in bounded memory."""

from collections.abc import Iterator
from typing import Any

import ijson

from infra.places import Found, open_file
from schemas.errors import DataError

BOM = b"\xef\xbb\xbf"


def array_items(found: Found) -> Iterator[tuple[str, Any]]:
    """Yields (`name:N`, value), N counting from 1. Files of any size: never loaded whole.

    Raises:
        DataError: not JSON, or another top level than an array.
    """
    with open_file(found.uri) as file:
        head = file.read(len(BOM))
        file.seek(len(BOM) if head == BOM else 0)
        start = file.tell()
        first = next((c for c in iter(lambda: file.read(1), b"") if not c.isspace()), b"")
        if first != b"[":
            raise DataError(
                f"{found.uri!r} does not begin with '[': a JSON array of records was expected "
                "(for JSON Lines use format=table)"
            )
        file.seek(start)
        try:
            for number, value in enumerate(ijson.items(file, "item", use_float=True), start=1):
                yield f"{found.name}:{number}", value
        except (ijson.JSONError, OSError) as error:
            raise DataError(f"{found.uri!r} is not readable JSON: {error}") from error
