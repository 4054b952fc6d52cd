"""CSV and TSV row by row in bounded memory; what another program wrote is told with a remedy."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from infra.places import Found, open_file
from schemas.errors import DataError
from tasks.sources.encoding import check_encoding, undecodable
from tasks.sources.layout import Layout

LONGEST_CELL = 16_000_000
HEAD = 65_536
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}

Row = tuple[int, dict[str, Any] | str]  # row number from 1 and row, or what is wrong with it


def csv_rows(file: Found, columns: Layout) -> Iterator[Row]:
    """The rows of a UTF-8 file with a header, separated by commas, or by tabs in a .tsv.

    Raises:
        DataError: another encoding or separator, a quote or row without end, a missing column.
    """
    csv.field_size_limit(LONGEST_CELL)
    comma = "\t" if file.name.lower().endswith(".tsv") else ","
    _check_head(file, comma, columns)
    with io.TextIOWrapper(open_file(file.uri), encoding="utf-8-sig", newline="") as lines:
        metered = _Metered(lines)
        reader = csv.DictReader(metered, strict=True, delimiter=comma)
        try:
            header = reader.fieldnames or []
            columns.check(header, file.uri)
            for number, row in enumerate(reader, start=1):
                metered.since = 0
                # A short or long row means a broken quote: its cells may be in wrong columns.
                whole = None not in row and None not in row.values()
                yield number, row if whole else f"not the header's {len(header)} cells"
        except UnicodeDecodeError as error:
            raise undecodable(file) from error
        except (csv.Error, OSError) as error:
            raise DataError(f"{file.uri!r} is not readable CSV: {error}") from error


def _check_head(file: Found, comma: str, columns: Layout) -> None:
    """DataError for a file in UTF-16, or whose header has another separator."""
    with open_file(file.uri) as data:
        head = data.read(HEAD)
    check_encoding(file, head)
    header = head.decode("utf-8-sig", errors="replace").partition("\n")[0].strip()
    other = max((s for s in SEPARATORS if s != comma), key=header.count)
    if comma not in header and other in header and header not in columns.wanted:
        raise DataError(
            f"{file.uri!r} has one column named {header!r:.200}: {SEPARATORS[other]} stand "
            f"between its cells, and {SEPARATORS[comma]} are read; write it again with "
            f"{SEPARATORS[comma]}{', or name it .tsv' if other == chr(9) else ''}"
        )


class _Metered:
    """The lines of a CSV; an error where one row, not known yet, goes on and on."""

    def __init__(self, lines: io.TextIOWrapper) -> None:
        self._lines = lines
        self.since = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._lines.readline(LONGEST_CELL):
            self.since += len(line)
            if self.since >= LONGEST_CELL:
                raise csv.Error(f"a row is longer than {LONGEST_CELL} characters")
            yield line
