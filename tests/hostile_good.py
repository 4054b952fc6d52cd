"""Good sources in all their variety: what stands against hostile files must let them through."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.config import SourceConfig
from tests.hostile import encoded, row

KINDS = (
    *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    *(("GIF", mode) for mode in ("L", "P", "RGB")),
    *(("BMP", mode) for mode in ("1", "L", "P", "RGB")),
)


def good_image(number: int) -> tuple[str, bytes]:
    """Extension and bytes; sizes, formats and modes take turns."""
    form, mode = KINDS[number % len(KINDS)]
    size = (8 + number % 37, 5 + number % 53)
    options = {"progressive": True} if form == "JPEG" and number % 2 else {}
    return form.lower(), encoded(form, mode=mode, seed=number, size=size, **options)


def good_row(number: int) -> dict[str, object]:
    texts = [
        "what is it?",
        "=1+1",
        'a "quoted", long\nline',
        "\u00e9\u4e2d\U0001f600",
        "\\ud800",
        "[" * 300,
    ]
    return row(question=f"{texts[number % len(texts)]} {number}", more={"a": [number], "b": None})


def good_sources(folder: Path, *, count: int) -> tuple[SourceConfig, ...]:
    """`count` good items with an image each, a fourth in each kind of source."""
    folder.mkdir()
    makers = (_lines, _array, _tar, _parquet)
    shares = [range(start, count, len(makers)) for start in range(len(makers))]
    return tuple(make(folder, share) for make, share in zip(makers, shares, strict=True))


def _shown(folder: Path, number: int) -> str:
    extension, data = good_image(number)
    (folder / f"{number}.{extension}").write_bytes(data)
    return f"{number}.{extension}"


def _lines(folder: Path, numbers: range) -> SourceConfig:
    rows = [{**good_row(n), "image": _shown(folder, n)} for n in numbers]
    (folder / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return SourceConfig(format="table", uri=f"{folder}/l.jsonl", images=str(folder))


def _array(folder: Path, numbers: range) -> SourceConfig:
    rows = [{**good_row(n), "image": _shown(folder, n)} for n in numbers]
    (folder / "a.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    return SourceConfig(format="table", uri=f"{folder}/a.json", images=str(folder))


def _tar(folder: Path, numbers: range) -> SourceConfig:
    with tarfile.open(folder / "t.tar.gz", "w:gz") as file:
        for n in numbers:
            extension, data = good_image(n)
            text = json.dumps(good_row(n)).encode()
            for name, content in ((f"./d/{n}.{extension}", data), (f"./d/{n}.json", text)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return SourceConfig(format="webdataset", uri=f"{folder}/t.tar.gz")


def _parquet(folder: Path, numbers: range) -> SourceConfig:
    rows = [{**good_row(n), "image": {"bytes": good_image(n)[1], "path": None}} for n in numbers]
    pq.write_table(pa.Table.from_pylist(rows), folder / "p.parquet", row_group_size=1_000)
    return SourceConfig(format="hf-parquet", uri=f"{folder}/p.parquet")
