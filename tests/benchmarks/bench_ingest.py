"""Images a second of ingest, against bare Pillow and Hugging Face datasets: 3,000, or IMAGES.

All read the same JPEGs, twice by turns, each in a process of its own that has read a few before;
the better time counts. datasets makes a Parquet file with the images in it, each decoded once as
ours are. (It computes no sha256 and no perceptual hash, and groups nothing.) `hashed` is Pillow and
the perceptual hash, `strict` the children that decode and hash, without the rest of ingest.
Peak memory is that of a process and its children together.
"""

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tasks.decoder.children import cores
from tasks.decoder.strict import Facts
from tests.benchmarks.record import record

IMAGES = int(os.environ.get("IMAGES", 3_000))
MIB = 1 << 20


@pytest.mark.timeout(1800)
def test_images_a_second_against_bare_decoding_and_datasets(tmp_path: Path) -> None:
    try:
        _generate(tmp_path / "few", 16)
        size = _generate(tmp_path / "all", IMAGES)
        turns = [{name: _measured(name, tmp_path) for name in WAYS} for _ in range(2)]
    finally:
        rmtree(tmp_path)
    times, peaks = ({n: min(turn[n][i] for turn in turns) for n in WAYS} for i in range(2))
    # The bare ways use one core each.
    rates = {n: IMAGES / t * (cores() if n in BARE else 1) for n, t in times.items()}
    shares = [("ours", "datasets"), ("ours", "pillow"), ("strict", "pillow"), ("strict", "hashed")]
    record(
        "ingest",
        {
            "images": IMAGES,
            "bytes_per_image": round(size / IMAGES),
            "cpus": cores(),
            **{f"{name}_images_per_s": round(rate) for name, rate in rates.items()},
            **{f"{name}_peak_mib": round(peaks[name]) for name in ("ours", "datasets")},
            **{f"{a}_of_{b}": round(rates[a] / rates[b], 2) for a, b in shares},
        },
    )


def _measured(name: str, folder: Path) -> tuple[float, float]:
    """Seconds, and MiB at the peak."""
    for made in ("store", "cache", "made.parquet"):
        for path in folder.glob(f"*/{made}"):
            rmtree(path) if path.is_dir() else path.unlink()
    command = [sys.executable, "-m", "tests.benchmarks.bench_ingest", name, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def _generate(folder: Path, count: int) -> int:
    """JPEGs of 336 to 512 pixels a side, coarse fields with some grain; their bytes."""
    draw, images = np.random.default_rng(0), folder / "images"
    images.mkdir(parents=True)
    lines = ["question,type,image"]
    for number in range(count):
        size = tuple(map(int, draw.integers(336, 513, 2)))
        pixels = np.zeros((size[1], size[0], 3))
        for side in (4, 16, 64, 128):
            field = Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8))
            pixels += np.asarray(field.resize(size, Image.Resampling.BILINEAR)) / side
        pixels = pixels / pixels.max() * 255 + draw.normal(0, 6, (*pixels.shape[:2], 1))
        image, out = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), io.BytesIO()
        image.save(out, "JPEG", quality=85)
        (images / f"{number}.jpg").write_bytes(out.getvalue())
        lines.append(f"what is it {number},clean,{number}.jpg")
    (folder / "t.csv").write_text("\n".join(lines))
    return sum(path.stat().st_size for path in images.iterdir())


def _ours(folder: Path) -> int:
    from infra.store import Store
    from schemas.config import IngestConfig, SourceConfig
    from tasks.ingest import ingest

    images, uri = str(folder / "images"), str(folder / "t.csv")
    source = SourceConfig(format="table", uri=uri, images=images, name="made")
    samples = ingest(IngestConfig(sources=(source,)), store=Store(str(folder / "store")))
    return samples.counts["decoded"]


def _pillow(folder: Path) -> int:
    count = 0
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            image.load()
            count += 1
    return count


def _hashed(folder: Path) -> int:
    from tasks.decoder.phash import perceptual_hash

    count = 0
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            perceptual_hash(image)
            count += 1
    return count


def _strict(folder: Path) -> int:
    from tasks.decoder.children import decode_all

    def some(paths: list[Path]) -> int:
        found = decode_all([path.read_bytes() for path in paths], max_pixels=10**6)
        return sum(isinstance(facts, Facts) for facts in found)

    paths = list((folder / "images").iterdir())
    groups = [paths[start : start + 8] for start in range(0, len(paths), 8)]
    with ThreadPoolExecutor(cores() + 2) as pool:
        return sum(pool.map(some, groups))


def _datasets(folder: Path) -> int:
    import datasets
    from datasets.table import embed_table_storage

    datasets.disable_progress_bars()
    table = datasets.Dataset.from_csv(str(folder / "t.csv"), cache_dir=str(folder / "cache"))
    rows = table.map(lambda row: {"image": str(folder / "images" / row["image"])})
    rows = rows.cast_column("image", datasets.Image()).with_format("arrow")
    rows = rows.map(embed_table_storage, batched=True, batch_size=256, num_proc=cores())
    rows = rows.with_format(None).map(_size, num_proc=cores())
    rows.to_parquet(str(folder / "made.parquet"), batch_size=256)
    return len(rows)


def _size(row: dict[str, Any]) -> dict[str, int]:
    """What an image has once it is decoded, as datasets does whenever it hands one over."""
    return {"width": row["image"].width, "height": row["image"].height}


def _tell(read: Callable[[Path], int], folder: Path) -> None:
    """Seconds, and the most MiB of this process and its children, looked at 20 times a second."""
    read(folder / "few")
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak.append(_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    count = read(folder / "all")
    seconds = time.perf_counter() - began
    stop.set()
    watcher.join()
    assert count == IMAGES
    print(json.dumps([seconds, max(peak) / MIB]))


def _memory() -> int:
    """Proportional set size: pages that processes share count once."""
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


WAYS = {
    "pillow": _pillow,
    "hashed": _hashed,
    "strict": _strict,
    "ours": _ours,
    "datasets": _datasets,
}
BARE = ("pillow", "hashed")

if __name__ == "__main__":
    _tell(WAYS[sys.argv[1]], Path(sys.argv[2]))
