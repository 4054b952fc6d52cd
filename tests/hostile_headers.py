"""Tars whose headers lie: sizes, jumps, sparse files and names without end."""

import tarfile
from random import Random

from tests.hostile import ERROR, whole
from tests.hostile_tars import PACK, TEXT, before_the_end, extended, header, tar


@whole(ERROR, "tar", "webdataset")
def packed_zeros_without_end(draw: Random) -> bytes:
    pack = PACK[draw.choice(list(PACK))]
    size = 10 ** draw.randrange(10, 13)
    start = before_the_end(tar())[:-1024] + header("a.png", size)
    return pack(start) + pack(bytes(10_000_000)) * 2


@whole(ERROR, "tar", "webdataset")
def packed_headers_without_end(draw: Random) -> bytes:
    pack = PACK[draw.choice(list(PACK))]
    kind = draw.choice([tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
    start = before_the_end(tar())[:-1024] + header("a", 3_000_000_000, kind)
    return pack(start) + pack(bytes(10_000_000)) * 3


@whole(ERROR, "tar", "webdataset")
def headers_of_headers(draw: Random) -> bytes:
    one = draw.choice(
        [extended(("comment", "a")), header("a", 2, tarfile.GNUTYPE_LONGNAME) + b"a\0" + bytes(510)]
    )
    return before_the_end(tar(), one * draw.choice([1_200, 9_000]), header("a.png", 0))


@whole(ERROR, "tar", "webdataset")
def size_that_cannot_be(draw: Random) -> bytes:
    size = draw.choice(
        ["-1", "-512", "-9999", "99999999999999999999999", str(2**63), "-" + "9" * 30]
    )
    return before_the_end(tar(), extended(("size", size)), header("a.png", 9), bytes(512))


@whole(ERROR, "tar", "webdataset")
def map_of_a_sparse_file_that_is_false(draw: Random) -> bytes:
    major = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")]
    body = draw.choice([b"99999999\n", b"words\n", b"9" * 500, b"\n"])
    if draw.random() < 0.3:
        return before_the_end(tar(), extended(("GNU.sparse.map", "a,b")), header("a.png", 0))
    return before_the_end(tar(), extended(*major), header("a.png", 512), body.ljust(512, b"\0"))


@whole("image_too_big", "tar", "webdataset")
def sparse_member_of_terabytes(draw: Random) -> bytes:
    size = str(10 ** draw.randrange(9, 15))
    major = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", size)]
    name = ("GNU.sparse.name", "a.png")
    hole = extended(*major, name) + header("x", 512) + f"1\n{size}\n0\n".encode().ljust(512, b"\0")
    return before_the_end(tar(("a.json", TEXT)), hole)


@whole(ERROR, "tar", "webdataset")
def header_of_a_gigabyte(draw: Random) -> bytes:
    kind = draw.choice([tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
    return before_the_end(tar(), header("a", draw.choice([10**9, 8 * 10**9]), kind), bytes(9_000))
