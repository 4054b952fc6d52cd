"""What hostile files may cost: memory, measured on the whole command in a process of its own."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.places import Found
from schemas.config import SourceConfig
from schemas.errors import DataError
from tasks.sources import hf_parquet, parquet
from tasks.sources.parquet_pages import limits
from tests import hostile, hostile_pages
from tests.memory import forget_peak, peak
from tests.parquet_by_hand import repeated

HOME = Path(__file__).parents[1]
PSAVLM = """
import sys
from flows.cli.main import main
from tests.memory import peak
try:
    main()
finally:
    print("peak", peak(), file=sys.stderr)
"""
BOMBS = sorted(hostile.KINDS.keys() & vars(hostile_pages).keys())


def rows(path: Path) -> list[dict | str]:
    with parquet.opened(Found(str(path), path.name)) as table:
        return [row for _, row in parquet.rows(table)]


def ingested(folder: Path, data: bytes) -> tuple[int, str, float]:
    """Exit code, what was said, and the peak memory in MiB of `psavlm ingest`."""
    folder.mkdir()
    (folder / "t.parquet").write_bytes(data)
    source = f"format=table,uri={folder}/t.parquet"
    asked = ["ingest", "--root", f"{folder}/store", "--source", source]
    done = subprocess.run(
        [sys.executable, "-c", PSAVLM, *asked], cwd=HOME, capture_output=True, text=True
    )
    said, _, used = done.stderr.rpartition("peak ")
    return done.returncode, done.stdout + said, float(used)


@pytest.mark.slow
def test_no_parquet_bomb_takes_more_than_600_mib(tmp_path):
    code, said, ordinary = ingested(tmp_path / "ordinary", repeated(b"a", zeros=9, count=9))
    assert code == 0, said
    for name in BOMBS:
        expected, make = hostile.KINDS[name]
        (tmp_path / f"made-{name}").mkdir()
        source = make(tmp_path / f"made-{name}", Random(name))
        code, said, used = ingested(tmp_path / name, Path(source.uri).read_bytes())
        print(f"{name}: exit {code}, {used - ordinary:.0f} MiB above {ordinary:.0f}")
        assert code == (2 if expected == hostile.ERROR else 0), said
        assert used - ordinary < 600, name


def test_a_bomb_is_refused_by_its_column_and_row_group_with_what_to_do(tmp_path):
    path = tmp_path / "bomb.parquet"
    path.write_bytes(repeated(b"a", zeros=400_000_000, count=3))
    with pytest.raises(DataError) as error:
        rows(path)
    told = str(error.value)
    assert str(path) in told and "column 'question' of row group 0" in told
    assert "800 MB at one place" in told and "smaller row groups" in told


def test_what_is_large_on_the_disk_is_read_and_what_is_large_only_unpacked_is_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(limits, "UNPACKED", 1_000_000)
    noise = [Random(n).randbytes(10_000) for n in range(200)]
    zeros = [bytes([n]) * 10_000 for n in range(200)]
    for name, values in (("noise", noise), ("zeros", zeros)):
        pq.write_table(pa.table({"image": values}), tmp_path / f"{name}.parquet")
    assert [row["image"] for row in rows(tmp_path / "noise.parquet")] == noise
    with pytest.raises(DataError, match="column 'image' of row group 0"):
        rows(tmp_path / "zeros.parquet")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("packing", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
def test_good_files_of_every_packing_version_and_encoding_are_read(tmp_path, packing, version):
    words = [None if n % 5 == 0 else f"word {n % 7}" * (n % 9) for n in range(3_000)]
    values = {
        "plain": words, "delta": words, "lengths": words, "number": list(range(3_000)),
        "many": [[word, "a"] for word in words], "deep": [[[{"a": word}]] for word in words],
        "kind": pa.array(words).dictionary_encode(),
    }  # fmt: skip
    encodings = {"delta": "DELTA_BYTE_ARRAY", "lengths": "DELTA_LENGTH_BYTE_ARRAY"}
    encodings |= {"number": "DELTA_BINARY_PACKED"}
    options = {"use_dictionary": ["many", "deep", "kind"], "row_group_size": 1_111}
    pq.write_table(
        pa.table(values), tmp_path / "a.parquet", compression=packing,
        data_page_version=version, data_page_size=900, column_encoding=encodings, **options,
    )  # fmt: skip
    assert rows(tmp_path / "a.parquet") == pa.table(values).to_pylist()


def damaged(count: int) -> Iterator[bytes]:
    """Good files of all packings and encodings in which some bytes are others."""
    words, draw, good = [f"w{n % 7}" for n in range(40)], Random(0), []
    images = [{"bytes": bytes(n), "path": None} for n in range(40)]
    lists = [[word, "a"] for word in words]
    values = {"question": words, "type": ["clean"] * 40, "more": lists, "image": images}
    values["kind"] = pa.array(words).dictionary_encode()
    delta = {"question": "DELTA_BYTE_ARRAY", "more.list.element": "DELTA_LENGTH_BYTE_ARRAY"}
    coded = {"use_dictionary": False, "column_encoding": delta}
    for packing, version in product(("none", "snappy", "zstd"), ("1.0", "2.0")):
        for options in ({}, coded):
            out = pa.BufferOutputStream()
            given = {"compression": packing, "data_page_version": version, **options}
            pq.write_table(pa.table(values), out, row_group_size=15, **given)
            good.append(out.getvalue().to_pybytes())
    for _ in range(count):
        data = bytearray(draw.choice(good))
        for _ in range(draw.choice([1, 1, 2, 5])):
            data[draw.randrange(len(data))] = draw.choice([draw.randrange(256), 0, 127, 128, 255])
        yield bytes(data)


def read_or_refused(folder: Path, *, count: int) -> Counter[str]:
    ended: Counter[str] = Counter()
    for data in damaged(count):
        (folder / "a.parquet").write_bytes(data)
        source = SourceConfig(format="hf-parquet", uri=f"{folder}/a.parquet")
        try:
            ended["read"] += bool(list(hf_parquet.read(source, max_bytes=1_000)))
        except DataError:
            ended["refused"] += 1
    return ended


def test_files_with_damaged_bytes_are_read_or_refused(tmp_path):
    ended = read_or_refused(tmp_path, count=250)
    assert ended.total() == 250 and min(ended.values()) > 20


@pytest.mark.slow
def test_ten_thousand_files_with_damaged_bytes_are_read_or_refused(tmp_path):
    ended = read_or_refused(tmp_path, count=10_000)
    assert ended.total() == 10_000


@pytest.mark.slow
def test_large_groups_of_large_images_are_read_within_their_own_size(tmp_path):
    path, size, count = tmp_path / "large.parquet", 1_000_000, 500
    images = pa.table({"image": [os.urandom(size) for _ in range(count)]})
    pq.write_table(images, path, row_group_size=count, use_dictionary=False, compression="none")
    del images
    code = "import sys; from tests.test_hostile_memory import weigh; print(*weigh(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=True,
    )
    seen, grown = done.stdout.split()
    assert int(seen) == count
    assert count * size / 2**20 < float(grown) < 3 * count * size / 2**20


def weigh(path: str) -> tuple[int, float]:
    """Rows, and the MiB that the process grew by while it read them."""
    before, seen = forget_peak(), 0
    with parquet.opened(Found(path, "large")) as table:
        for _, row in parquet.rows(table):
            assert isinstance(row, dict)
            seen += 1
    return seen, peak() - before
