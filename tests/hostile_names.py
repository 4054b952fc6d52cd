"""Names of images that would lead a careless reader out of its folder, or nowhere."""

import os
from pathlib import Path
from random import Random
from socket import AF_UNIX, socket

from schemas.config import SourceConfig
from tests.hostile import ACCEPTED, ERROR, encoded, kind, name

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@name(ACCEPTED)
def wrong_extension(folder: Path, draw: Random) -> str:
    called = draw.choice(["a.exe", "b", "c.svg", "d.PNG.txt", "e e.jpg", "é.gif", "%2e.png"])
    (folder / called).write_bytes(encoded(draw.choice(FORMATS)))
    return called


@name("path_outside_folder")
def name_that_leads_out(folder: Path, draw: Random) -> str:
    (folder.parent / "secret.png").write_bytes(encoded("PNG"))
    out = str(folder.parent / "secret.png")
    ways = ["../secret.png", "a/../../secret.png", "..\\secret.png", "a\\..\\..\\b", "..", out]
    return draw.choice([*ways, "/dev/zero", "//none/a.png", "\\\\none\\a.png", "good.png\0.txt"])


@name("path_outside_folder")
def address_of_another_kind(folder: Path, draw: Random) -> str:
    return draw.choice(["file", "s3", "gopher", "jar", "FILE"]) + "://none/a.png"


@name("path_outside_folder")
def link_that_leads_out(folder: Path, draw: Random) -> str:
    (folder.parent / "secret.png").write_bytes(encoded("PNG"))
    if draw.random() < 0.5:
        (folder / "odd.png").symlink_to(draw.choice([folder.parent / "secret.png", "/dev/zero"]))
        return "odd.png"
    (folder / "deep").symlink_to(folder.parent)
    return "deep/secret.png"


@name("remote_image")
def address_on_the_net(folder: Path, draw: Random) -> str:
    return draw.choice(["http", "https", "HTTP", "ftp"]) + "://127.0.0.1:9/a.png"


@name("image_missing")
def name_of_nothing(folder: Path, draw: Random) -> str:
    names = [
        "none.png",
        "x" * 300,
        "x/" * 3_000 + "a",
        "~/a.png",
        "%2e%2e/secret.png",
        ".",
        "a" * 99,
    ]
    return draw.choice([*names, "data:image/png,abc", "good.png/a", "$HOME", "C:\\a.png", "*.png"])


@name("image_missing")
def no_plain_file(folder: Path, draw: Random) -> str:
    ways = [os.mkfifo, os.mkdir, lambda p: p.symlink_to(p), lambda p: p.symlink_to("gone")]
    draw.choice(ways)(folder / "odd.png")
    return "odd.png"


@name("bad_value")
def name_with_half_a_character(folder: Path, draw: Random) -> str:
    return draw.choice(["\ud800.png", "a\udfff", "\udc80/a.png"])


@name(ACCEPTED)
def folder_that_holds_itself(folder: Path, draw: Random) -> str:
    (folder / "deep").mkdir()
    (folder / "deep" / "loop").symlink_to(draw.choice(["..", folder, "../deep/.."]))
    return "deep/loop/" * draw.randrange(1, 15) + "good.png"


@kind(ERROR)
def source_that_is_no_file(folder: Path, draw: Random) -> SourceConfig:
    path = folder / f"t.{draw.choice(['csv', 'jsonl', 'parquet', 'json', 'tsv'])}"
    ways = [os.mkfifo, os.mkdir, lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to(p)]
    draw.choice([*ways, _socket])(path)
    return SourceConfig(format="table", uri=str(path), name="odd")


def _socket(path: Path) -> None:
    # A socket's whole name must be short: it is bound where it lies.
    back = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket(AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(back)
