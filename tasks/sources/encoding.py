"""Texts that are no UTF-8: what they are instead, where it shows, and what to do."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, getincrementaldecoder

from infra.places import Found, open_file
from schemas.errors import DataError

WIDE = (BOM_UTF16_LE, BOM_UTF16_BE, BOM_UTF32_BE)
LINE = 1_000_000


def check_encoding(file: Found, head: bytes) -> None:
    """DataError if a file that begins with `head` has two or four bytes a character."""
    if head.startswith(WIDE) or b"\0" in head[:4]:
        raise DataError(
            f"{file.uri!r} is UTF-16, or has as many bytes a character: it begins with "
            f"{head[:6]!r}, and UTF-8 is read; save it as UTF-8, or: iconv -f UTF-16 -t UTF-8 "
            "OLD > NEW"
        )


def undecodable(file: Found) -> DataError:
    """What to say of a file that is no UTF-8: the line and byte where this shows."""
    found, decoder = "its last character is cut", getincrementaldecoder("utf-8")()
    with open_file(file.uri) as data:
        number, line = 1, b""
        while line := data.readline(LINE):
            try:
                decoder.decode(line)
            except UnicodeDecodeError as error:
                found = f"byte 0x{error.object[error.start]:02x} in line {number}"
                break
            number += line.endswith(b"\n")
    return DataError(
        f"{file.uri!r} is not UTF-8: {found}; it is probably Latin-1 or Windows-1252, as "
        "spreadsheets write it: save it as UTF-8, or: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
    )
