"""Tars of samples that would harm a careless reader."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from random import Random

from tests.hostile import ACCEPTED, ERROR, encoded, row, whole

Fill = Callable[[tarfile.TarFile], None]
TEXT = json.dumps(row()).encode()
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def tar(*members: tuple[str, bytes], fill: Fill | None = None) -> bytes:
    """A tar of a good sample and these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, content in (("good.png", encoded("PNG")), ("good.json", TEXT), *members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        if fill:
            fill(file)
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> Fill:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return lambda file: file.addfile(info)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def extended(*records: tuple[str, str]) -> bytes:
    """A pax header of these records."""
    body = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode()
        size = len(rest) + 1
        while len(f"{size}".encode()) + len(rest) != size:
            size += 1
        body += f"{size}".encode() + rest
    return header("pax", len(body), tarfile.XHDTYPE) + body + bytes(-len(body) % 512)


def before_the_end(data: bytes, *more: bytes) -> bytes:
    """A tar with raw bytes behind its last member, and an end."""
    return data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512) + b"".join(more) + bytes(1024)


@whole("path_outside_folder", "tar", "webdataset")
def member_whose_name_leads_out(draw: Random) -> bytes:
    keys = ["../a", "/a", "a/../../b", "..\\a", "/dev/a", "\\a", "./../a", "a/.."]
    key = draw.choice(keys)
    return tar((f"{key}/x.png", encoded("PNG")), (f"{key}/x.json", TEXT))


@whole("image_missing", "tar", "webdataset")
def image_that_is_no_file(draw: Random) -> bytes:
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    target = draw.choice(["/dev/zero", "../secret.png", "good.png", "a.png"])
    return tar(("a.json", TEXT), fill=special("a.png", draw.choice(kinds), target))


@whole("missing_key", "tar", "webdataset")
def row_that_is_no_file(draw: Random) -> bytes:
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
    link = special("a.json", draw.choice(kinds), draw.choice(["/etc/hostname", "good.json"]))
    return tar(("a.png", encoded("PNG")), fill=link)


@whole("missing_key", "tar", "webdataset")
def member_that_is_there_twice(draw: Random) -> bytes:
    more = draw.choice([("a.json", TEXT), ("a.JSON", b"{}")])
    return tar(("a.json", TEXT), more, ("a.png", encoded("PNG")))


@whole("missing_key", "tar", "webdataset")
def thousands_of_members(draw: Random) -> bytes:
    return tar(*((f"a.{i}", b"") for i in range(draw.randrange(200, 3_000))), ("a.json", TEXT))


@whole("missing_key", "tar", "webdataset")
def name_without_end(draw: Random) -> bytes:
    part = draw.choice(["/", "a/", "a"])
    return tar(("b" + part * draw.randrange(1_001, 90_000) + ".png", b"x"))


@whole("bad_row", "tar", "webdataset")
def row_member_that_is_bad(draw: Random) -> bytes:
    odd = [b"", b"{", b"\xff", b"[" * 900 + b"]" * 900, b'{"a": 1, "a": 2}', b"7" * 5_000, bytes(9)]
    return tar(("a.json", draw.choice(odd)), ("a.png", encoded("PNG")))


@whole("image_unreadable", "tar", "webdataset")
def image_member_that_is_bad(draw: Random) -> bytes:
    data = encoded("PNG")
    return tar(("a.json", TEXT), ("a.png", data[: draw.randrange(len(data) - 20)]))


@whole("image_too_big", "tar", "webdataset")
def member_of_megabytes(draw: Random) -> bytes:
    return tar(("a.json", TEXT), ("a.png", bytes(draw.randrange(1_000_001, 9_000_000))))


@whole(ERROR, "tar", "webdataset")
def tar_cut_short(draw: Random) -> bytes:
    data = tar().rstrip(b"\0")
    return data[: draw.randrange(1, len(data))]


@whole(ERROR, "tar", "webdataset")
def tar_that_is_none(draw: Random) -> bytes:
    return draw.choice([b"", draw.randbytes(2_000), encoded("PNG"), b"PK\3\4" + bytes(999), TEXT])


@whole(ERROR, "tar", "webdataset")
def packed_tar_that_is_damaged(draw: Random) -> bytes:
    data = bytearray(PACK[draw.choice(list(PACK))](tar()))
    place = draw.randrange(20, len(data) - 40)
    data[place : place + 8] = draw.randbytes(8)
    return bytes(data[: draw.choice([len(data), place + 20])])


@whole("image_unreadable", "tar", "webdataset")
def tar_in_a_tar(draw: Random) -> bytes:
    inner = tar(("../x.png", encoded("PNG")))
    for _ in range(draw.randrange(3)):
        inner = draw.choice([tar(("a.tar", inner)), gzip.compress(inner)])
    return tar(("a.json", TEXT), ("a.png", inner))


@whole(ACCEPTED, "tar", "webdataset")
def objects_beside_the_image(draw: Random) -> bytes:
    # If anything unpickled it, the process would abort.
    aborts = b"\x80\x04cposix\nabort\n)R."
    called = draw.choice(["pkl", "pickle", "pyd", "pth", "npy", "npz", "json.pkl"])
    return tar(("a.json", TEXT), ("a.png", encoded("PNG")), (f"a.{called}", aborts))


@whole(ACCEPTED, "tar", "webdataset")
def tar_that_is_an_image_too(draw: Random) -> bytes:
    magic = draw.choice(["\udcff\udcd8\udcff", "GIF89a", "BM", "RIFFxxxxWEBP", "<html>"])
    return header(magic, 0) + tar()


@whole(ACCEPTED, "tar", "webdataset")
def tar_that_only_looks_odd(draw: Random) -> bytes:
    sample = (("b.json", TEXT), ("b.png", encoded("PNG")))
    more = [
        tar(("README", b"words"), *sample),
        tar(("c/d.cls", b"1"), ("c/d.json", TEXT), ("c/d.jpg", encoded("JPEG"))),
        tar(*sample, fill=special("deep", tarfile.DIRTYPE)),
        tar(*sample, fill=special("link", tarfile.SYMTYPE, "/dev/zero")),
        before_the_end(tar(*sample)) + bytes(50_000),
        PACK[draw.choice(list(PACK))](tar(*sample)),
    ]
    return draw.choice(more)
