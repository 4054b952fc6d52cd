"""Ingest, validate and balance of one small world, each run in other circumstances.

    python -m tests.snapshot_runs FOLDER SEED [SEED ...] [--deaths] [--together both kill]

prints for each run the sha256 of every file of every artifact. By its seed a run has its own order
of directories' entries, numbers of cores and threads, working folder, umask and time zone; with
`--deaths` it is killed once or twice at any time and run again. Or two run at once, `--root
s3://...` puts them into a bucket. Processes are forked from this one.
"""

import argparse
import io
import json
import os
import random
import signal
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401 - once, not in every process
import great_expectations  # noqa: F401
import pyarrow as pa

from infra.files import Files
from infra.provenance import provenance
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import BalanceConfig, IngestConfig, SourceConfig, ValidateConfig
from tasks.balance import balance
from tasks.ingest import ingest
from tasks.validate import validate
from tests.squares import COLOURS, squares

ZONES = ("UTC", "Asia/Tokyo", "America/Caracas")
ROWS, SHARDS = 45, 3
# No run takes longer; a death comes at any time before.
LONGEST_S = 1.5


def world(folder: Path, draw: random.Random) -> list[SourceConfig]:
    """The same sources everywhere, their files made in any order."""
    (folder / "images" / "more").mkdir(parents=True)
    files = {f"images/{_image(n)}": _picture(n) for n in range(ROWS)}
    files |= {f"s{shard}.tar": _tar(shard) for shard in range(SHARDS)}
    files["t.jsonl"] = "\n".join(map(json.dumps, map(_row, range(ROWS)))).encode()
    for name in draw.sample(sorted(files), len(files)):
        (folder / name).write_bytes(files[name])
    return [
        SourceConfig(format="table", uri="in/t.jsonl", images="in/images", name="t"),
        SourceConfig(format="webdataset", uri="in/s*.tar", name="w"),
    ]


def _image(number: int) -> str:
    return f"{'more/' if number % 2 else ''}{number}.png"


def _picture(number: int) -> bytes:
    out = io.BytesIO()
    squares(number, colour=COLOURS[number % 7], count=1 + number % 4).save(out, "PNG")
    return out.getvalue()


def _row(number: int) -> dict[str, Any]:
    kind = {"type": "clean"} if number % 4 else {"type": "privacy", "level": 1 + number % 3}
    words = {
        "question": f"größe, 大小 {number} ?",
        "answer": "sorry" if number % 4 == 0 else "zwei",
    }
    image = "gone.png" if number == 7 else _image(number)
    return {"image": image, **words, **kind}


def _tar(shard: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(10):
            key, words = 100 + 10 * shard + number, {"type": "clean", "answer": "größer"}
            for name, data in (
                (f"{key}.png", _picture(key)),
                (f"{key}.json", json.dumps(words | {"question": f"{key} ?"}).encode()),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def steps(sources: list[SourceConfig], root: str) -> list[Artifact]:
    """The three artifacts."""
    store = Store(root)
    samples = ingest(IngestConfig(sources=tuple(sources)), store=store)
    labelled = validate(ValidateConfig(max_reject_rate=0.2), samples, store=store)
    return [samples, labelled, balance(BalanceConfig(), labelled, store=store)]


def hashes(root: str) -> dict[str, str]:
    """Step and path -> sha256, of every artifact in a root, libraries too."""
    store, files, found = Store(root), Files.at(root), {}
    for path in files.found():
        if path.endswith("/manifest.json"):
            step, name, _ = path.split("/")
            made = store.manifest(
                Artifact(uri=f"{root}/{step}/{name}", step=step, fingerprint=name)
            )
            found |= {f"{step}/{entry.path}": entry.sha256 for entry in made.files}
    return found


@contextmanager
def circumstances(folder: Path, draw: random.Random) -> Iterator[None]:
    """Other than in any other run, for the rest of this process."""
    os.chdir(folder)
    os.umask(draw.choice([0o022, 0o077, 0o002]))
    os.environ["TZ"] = draw.choice(ZONES)
    time.tzset()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, draw.sample(cores, draw.randint(1, len(cores))))
    pa.set_cpu_count(draw.randint(1, 4))
    pa.set_io_thread_count(draw.randint(1, 4))
    real_list, real_scan = os.listdir, os.scandir

    def listed(*args: Any) -> list[Any]:
        names = real_list(*args)
        return draw.sample(names, len(names))

    class Scan:
        """Entries in any order."""

        def __init__(self, *args: Any) -> None:
            with real_scan(*args) as found:
                entries = list(found)
            self._entries = iter(draw.sample(entries, len(entries)))

        def __enter__(self) -> "Scan":
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def __iter__(self) -> "Scan":
            return self

        def __next__(self) -> os.DirEntry[Any]:
            return next(self._entries)

        def close(self) -> None:
            """Nothing is open."""

    os.listdir, os.scandir = listed, Scan
    yield


def forked(task: Callable[[], Any], out: Path) -> int:
    """A task in a process of its own, which writes what it tells; returns the process."""
    if child := os.fork():
        return child
    code = 1
    try:
        out.write_text(json.dumps(task()))
        code = 0
    except Exception:  # noqa: BLE001 - of whatever kind, it is told by the parent
        traceback.print_exc()
    finally:
        os._exit(code)


def one_run(folder: Path, seed: int, *, deaths: bool, root: str) -> dict[str, Any]:
    """The hashes of one run, which dies once or twice before."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    sources = world(folder / "in", draw)

    def whole() -> dict[str, str]:
        with circumstances(folder, random.Random(seed)):
            steps(sources, root or f"root-{seed}")
            return hashes(Store(root or f"root-{seed}").root)

    died = 0
    for _ in range(draw.randint(1, 2) if deaths else 0):
        child = forked(whole, folder / "told")
        time.sleep(draw.uniform(0.0, LONGEST_S))
        os.kill(child, signal.SIGKILL)
        died += os.waitpid(child, 0)[1] == signal.SIGKILL
    began = time.monotonic()
    assert os.waitpid(forked(whole, folder / "told"), 0)[1] == 0, f"seed {seed}"
    files = json.loads((folder / "told").read_text())
    return {"died": died, "seconds": round(time.monotonic() - began, 2), "files": files}


def together(folder: Path, *, kill: bool, root: str) -> dict[str, Any]:
    """Two runs at once on one root; the first is killed while it validates, if asked for."""
    folder.mkdir(parents=True)
    sources = world(folder / "in", random.Random(0))
    root = root or str(folder / "root")

    def whole() -> dict[str, Any]:
        os.chdir(folder)
        made = steps(sources, root)
        return {"reused": {one.step: one.reused for one in made}, "files": hashes(root)}

    def leased(step: str) -> None:
        files = Files.at(root)
        while not any(p.startswith(f"{step}/") and "/lease" in p for p in files.found()):
            time.sleep(0.02)

    first = forked(whole, folder / "first")
    os.waitpid(forked(lambda: leased("ingest"), folder / "seen"), 0)
    second = forked(whole, folder / "second")
    if kill:
        os.waitpid(forked(lambda: leased("validate"), folder / "seen"), 0)
        os.kill(first, signal.SIGKILL)
    began = time.monotonic()
    ended = [os.waitpid(child, 0)[1] for child in (first, second)]
    names = ["second"] if kill else ["first", "second"]
    told = [json.loads((folder / name).read_text()) for name in names]
    return {"ended": ended, "seconds": round(time.monotonic() - began, 2), "runs": told}


def main() -> None:
    """One run for each seed; or two at once."""
    words = argparse.ArgumentParser()
    words.add_argument("folder", type=Path)
    words.add_argument("seeds", nargs="*", type=int)
    words.add_argument("--deaths", action="store_true")
    words.add_argument("--together", choices=["both", "kill"], nargs="*", default=())
    words.add_argument("--root", default="")
    given = words.parse_args()
    folder = given.folder.resolve()
    provenance()  # asks git and others, once
    told: dict[str, Any] = {}
    for name in [*given.seeds, *given.together]:
        home, root = folder / f"{name}", f"{given.root}/{name}" if given.root else ""
        os.environ["PSAVLM_CACHE"] = str(home / "cache")
        if name in given.together:
            told[name] = together(home, kill=name == "kill", root=root)
        else:
            told[str(name)] = one_run(home, name, deaths=given.deaths, root=root)
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
