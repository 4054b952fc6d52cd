"""Hostile files, made by kind and number: the same every time, abstract, and harmless to open.

Each kind is one small function; what must happen to its files stands above it: a reject of one row
with a reason (the row before it stays), an error for a file that is no such file, or acceptance of
what only looks odd.
"""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from schemas.config import SourceConfig

ERROR, ACCEPTED = "error", "accepted"
LIMITS = {"max_image_bytes": 1_000_000, "max_image_pixels": 4_000_000}
Make = Callable[[Path, Random], SourceConfig]
KINDS: dict[str, tuple[str, Make]] = {}


@dataclass(frozen=True)
class Case:
    """One hostile source in a folder of its own, and what must happen to it."""

    kind: str
    number: int
    expected: str
    source: SourceConfig


def kind(expected: str) -> Callable[[Make], Make]:
    """A function that writes a source whose last row is hostile."""

    def register(make: Make) -> Make:
        KINDS[make.__name__] = (expected, make)
        return make

    return register


def image(expected: str) -> Callable[[Callable[[Random], bytes]], Callable[[Random], bytes]]:
    """A function that returns the bytes of an image file."""

    def register(make: Callable[[Random], bytes]) -> Callable[[Random], bytes]:
        def write(folder: Path, draw: Random) -> SourceConfig:
            (folder / "odd.png").write_bytes(make(draw))
            return shown(folder, "odd.png")

        KINDS[make.__name__] = (expected, write)
        return make

    return register


def name(expected: str) -> Callable[[Callable[[Path, Random], str]], Callable[[Path, Random], str]]:
    """A function that returns the name of an image, which it may have put into the folder."""

    def register(make: Callable[[Path, Random], str]) -> Callable[[Path, Random], str]:
        KINDS[make.__name__] = (expected, lambda folder, draw: shown(folder, make(folder, draw)))
        return make

    return register


def line(expected: str) -> Callable[[Callable[[Random], bytes]], Callable[[Random], bytes]]:
    """A function that returns one line of JSON."""

    def register(make: Callable[[Random], bytes]) -> Callable[[Random], bytes]:
        def write(folder: Path, draw: Random) -> SourceConfig:
            good = json.dumps(row()).encode()
            return table(folder, "t.jsonl", good + b"\n" + make(draw) + b"\n")

        KINDS[make.__name__] = (expected, write)
        return make

    return register


def whole(expected: str, ending: str, form: str = "table") -> Callable[..., Callable]:
    """A function that returns the bytes of a whole source file."""

    def register(make: Callable[[Random], bytes]) -> Callable[[Random], bytes]:
        def write(folder: Path, draw: Random) -> SourceConfig:
            return table(folder, f"t.{ending}", make(draw), form=form)

        KINDS[make.__name__] = (expected, write)
        return make

    return register


def cases(folder: Path, *, each: int) -> Iterator[Case]:
    """`each` cases of every kind, written below a folder one by one."""
    for called, (expected, make) in KINDS.items():
        for number in range(each):
            own = folder / f"{called}-{number}"
            own.mkdir(parents=True)
            yield Case(called, number, expected, make(own, Random(f"{called} {number}")))


def row(**more: object) -> dict[str, object]:
    return {"question": "what is it", "type": "clean", "answer": "a square", **more}


def table(folder: Path, called: str, content: bytes, *, form: str = "table") -> SourceConfig:
    (folder / called).write_bytes(content)
    return SourceConfig(format=form, uri=str(folder / called), name="odd")


def shown(folder: Path, called: str) -> SourceConfig:
    """A table whose first row shows a good image, the second the image of this name."""
    (folder / "good.png").write_bytes(encoded("PNG"))
    rows = [row(image="good.png"), row(image=called)]
    source = table(folder, "t.jsonl", "\n".join(map(json.dumps, rows)).encode())
    return SourceConfig.model_validate({**source.model_dump(), "images": str(folder)})


def encoded(form: str, *, mode: str = "RGB", seed: int = 0, size=(40, 30), **options) -> bytes:
    """An image of grey noise."""
    out, count = io.BytesIO(), size[0] * size[1]
    noise = Image.frombytes("L", size, Random(seed).randbytes(count))
    noise.convert(mode).save(out, form, **options)
    return out.getvalue()
