"""Ingest on a Ray cluster makes the bytes that ingest without one makes, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryFile

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.files import Files
from infra.store import Store
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import ConfigError, ServerError, StorageError
from schemas.samples import ImageRef
from tasks.images import image_library
from tasks.ingest import cluster, ingest, shards
from tasks.ingest.cluster import Chunk
from tasks.ingest.images import Refusal
from tasks.ingest.loading import Loading
from tasks.ingest.seen import Seen
from tasks.ingest.shards import ImageSpool
from tasks.ingest.worker import ASKED, decoded_block
from tests.benchmarks.record import record
from tests.hostile import encoded, row, table
from tests.hostile_good import good_sources
from tests.test_decode import slow
from tests.test_ingest_resumed import PER_SHARD, hashes

proof = [pytest.mark.slow, pytest.mark.usefixtures("only_cluster"), pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]
MIB = 1 << 20
GOOD, BAD = 120, 4
# A head of two CPUs, until stdin ends. Whoever is connected to it dies with it: not this process.
HEAD = """
import sys
from infra import ray_cluster
ray_cluster.join("", cpus=2)
import ray
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray_cluster.leave()
"""


@pytest.fixture
def head(only_cluster: None, tmp_path: Path, monkeypatch) -> Iterator[tuple[str, psutil.Process]]:
    """A cluster's address, and the process whose children it is."""
    known_to(monkeypatch, tmp_path)
    (tmp_path / "token").write_text(token_hex(32))
    command = [sys.executable, "-c", HEAD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        found = process.stdout.readline().strip()
        assert found, "no cluster started"
        yield found, psutil.Process(process.pid)


def known_to(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """What the cluster's processes have from this one, by which they are told from others."""
    patch.setenv("MARK", str(folder))
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))


@pytest.fixture
def address(head: tuple[str, psutil.Process]) -> str:
    return head[0]


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Every source is large, and the cluster larger than this machine."""
    make_small(monkeypatch.setattr)


def make_small(change: Callable[[object, str, object], None] = setattr) -> None:
    change(shards, "IMAGES_PER_SHARD", PER_SHARD)
    for name, value in {"IMAGES_ALONE": 2, "IMAGES_AT_ONCE": 10, "IMAGES_PER_BLOCK": 6}.items():
        change(cluster, name, value)
    change(cluster, "cores", lambda: 1)


def mixed(folder: Path, *, hard: bytes = b"") -> IngestConfig:
    """Images by path and by bytes, good ones in all formats, bad ones, and some twice."""
    sources = [*good_sources(folder, count=GOOD)]
    (folder / "odd.png").write_bytes(encoded("PNG")[:300])
    (folder / "hard.jpg").write_bytes(hard or encoded("JPEG", seed=GOOD))
    good = [path.name for path in sorted(folder.glob("*.png"))]
    names = [*good[:9], "odd.png", "none.png", "../in/odd.png", "hard.jpg", *good[3:12], "odd.png"]
    lines = "\n".join(json.dumps(row(image=name)) for name in names)
    paths = table(folder, "t.jsonl", lines.encode()).model_dump()
    sources.append(SourceConfig.model_validate({**paths, "images": str(folder), "name": "bad"}))
    return IngestConfig(sources=tuple(sources), max_image_bytes=len(hard) or 1_000_000)


def at_work() -> Iterator[tuple[psutil.Process, psutil.Process]]:
    """The workers of the test's cluster that have a decoder, with it."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended meanwhile, or is not ours to look at
            if "tasks.decoder.child" not in process.cmdline():
                continue
            worker, mark = process.parent(), process.environ().get("MARK")
            if worker and worker.pid != os.getpid() and mark == os.environ["MARK"]:
                yield worker, process


def some_images(folder: Path) -> IngestConfig:
    """Ten good images by path."""
    for number in range(10):
        (folder / f"{number}.png").write_bytes(encoded("PNG", seed=number))
    lines = "\n".join(json.dumps(row(image=f"{n}.png")) for n in range(10))
    paths = table(folder, "t.jsonl", lines.encode()).model_dump()
    return IngestConfig(
        sources=(SourceConfig.model_validate({**paths, "images": str(folder), "name": "t"}),)
    )


def test_a_cluster_that_does_not_answer_is_told_once(tmp_path, capfd):
    with pytest.raises(ConfigError, match="no Ray cluster at 127.0.0.1:1: .*; give host:port of"):
        ingest(some_images(tmp_path), store=Store(str(tmp_path / "s")), cluster="127.0.0.1:1")
    assert capfd.readouterr().err == ""
    assert not [*Files.at(str(tmp_path / "s")).folders("ingest")]


def test_a_worker_that_does_not_see_the_folder_says_what_to_do(tmp_path):
    config, folder = some_images(tmp_path), str(tmp_path / "elsewhere")
    block = pa.Table.from_pylist([{"path": "1.png"}], ASKED)
    with pytest.raises(
        StorageError, match=r"folder '.*/elsewhere'.*images=s3://.*leave out the cl"
    ):
        next(decoded_block(block, folder=folder, config=config, library=None))


def test_an_image_that_only_a_worker_misses_is_not_read_here_in_silence(tmp_path):
    config = some_images(tmp_path)
    with TemporaryFile() as file:
        spool = ImageSpool(image_library(Store(str(tmp_path / "s"))), file)
        chunk = Chunk(Loading(str(tmp_path), config, spool, Seen(spool.library, None)), None)
        missing = {name: Refusal("image_missing", name) for name in ("1.png", "none.png")}
        here = [chunk._checked(ImageRef(path=name), missing[name]) for name in ("none.png",)]
        assert here == [missing["none.png"]]
        ill = Refusal("image_unreadable", "the decoder died (signal 9)")
        assert chunk._checked(ImageRef(path="1.png"), ill).width == 40
        with pytest.raises(StorageError, match="does not see the image '1.png' of the folder"):
            chunk._checked(ImageRef(path="1.png"), missing["1.png"])


@contextmanager
def watched(look: Callable[[], bool]) -> Iterator[None]:
    """Looks 20 times a second until it has seen enough, or the block ends."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05) and not look():
            pass

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class TestProof:
    """Of `make prove`: each with a cluster of its own."""

    pytestmark = proof

    def test_the_bytes_are_the_same_though_a_worker_is_killed(self, tmp_path, address):
        config = mixed(tmp_path / "in", hard=slow())
        alone, shared = Store(str(tmp_path / "alone")), Store(str(tmp_path / "shared"))
        calm = ingest(config, store=alone)
        killed: list[int] = []

        def kill() -> bool:
            """The first worker that is seen in mid-image: no other takes a second of work."""
            for worker, decoder in at_work():
                with suppress(psutil.NoSuchProcess):
                    if decoder.cpu_times().user > 1:
                        worker.kill()
                        killed.append(worker.pid)
                        return True
            return False

        with watched(kill):
            made = ingest(config, store=shared, cluster=address)
        assert len(killed) == 1
        assert made.counts == calm.counts
        assert (calm.counts["rejected"], calm.counts["images"]) == (BAD, GOOD + 1)
        assert made.fingerprint == calm.fingerprint
        assert hashes(shared, made) == hashes(alone, calm)

    def test_the_bytes_are_the_same_though_the_ingest_is_killed(self, tmp_path, address):
        config = mixed(tmp_path / "in")
        alone, shared = Store(str(tmp_path / "alone")), Store(str(tmp_path / "shared"))
        code = (
            "import sys; from schemas.config import IngestConfig\n"
            "from tests.test_ingest_cluster import make_small\n"
            "from tests.test_ingest_resumed import killed_after\n"
            "make_small()\n"
            "config = IngestConfig.model_validate_json(sys.argv[1])\n"
            "killed_after(3, config, sys.argv[2], cluster=sys.argv[3])\n"
        )
        command = [sys.executable, "-c", code, config.model_dump_json(), shared.root, address]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr[-2_000:]
        made = ingest(config, store=shared, cluster=address)
        calm = ingest(config, store=alone)
        assert made.counts["decoded"] == calm.counts["decoded"] - 3 * PER_SHARD
        assert hashes(shared, made) == hashes(alone, calm)

    def test_the_bytes_are_the_same_though_the_cluster_is_lost(self, tmp_path, head):
        """Between two chunks, while a shard is written."""
        config, (address, holder) = mixed(tmp_path / "in"), head
        alone, shared = Store(str(tmp_path / "alone")), Store(str(tmp_path / "shared"))
        add, seen = shards.Library.add, []

        def lost(self: shards.Library, *args: object) -> None:
            add(self, *args)
            if not seen:
                seen.extend(holder.children(recursive=True))
                for process in [holder, *seen]:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards.Library, "add", lost)
            with pytest.raises(ServerError, match="cluster went away .* finished shards are kept"):
                ingest(config, store=shared, cluster=address)
        assert seen
        made, calm = (ingest(config, store=store) for store in (shared, alone))
        assert made.counts["decoded"] == calm.counts["decoded"] - PER_SHARD
        assert hashes(shared, made) == hashes(alone, calm)

    def test_what_the_library_has_is_not_decoded_by_the_cluster_either(self, tmp_path, address):
        config, store = mixed(tmp_path / "in"), Store(str(tmp_path / "store"))
        first, *rest = config.sources
        known = ingest(IngestConfig(sources=tuple(rest)), store=store, cluster=address)
        made = ingest(config, store=store, cluster=address)
        assert made.counts["decoded"] == made.counts["images"] - known.counts["images"]
        assert made.counts["decoded"] < GOOD / 2

    def test_an_error_of_a_worker_is_told_as_it_is(self, tmp_path, address):
        images = [{"bytes": encoded("PNG", seed=n), "path": None} for n in range(20)]
        images.append({"bytes": None, "path": "named.png"})
        rows = [{**row(), "question": f"q{n}", "image": image} for n, image in enumerate(images)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
        source = SourceConfig(format="table", uri=str(tmp_path / "t.parquet"), name="t")
        store = Store(str(tmp_path / "store"))
        with pytest.raises(ConfigError, match="names no folder; add images="):
            ingest(IngestConfig(sources=(source,)), store=store, cluster=address)

    @pytest.mark.parametrize("embedded", [False, True])
    def test_a_worker_holds_little_beside_its_block(self, tmp_path, address, monkeypatch, embedded):
        """Photos of 2 MB, blocks as large as they come; a worker and its decoder together."""
        monkeypatch.undo()
        known_to(monkeypatch, tmp_path)
        monkeypatch.setattr(cluster, "IMAGES_ALONE", 2)
        monkeypatch.setattr(cluster, "cores", lambda: 1)
        config = photos(tmp_path, count=200, embedded=embedded)
        peaks = {"worker": 0, "decoder": 0, "both": 0}

        def weigh() -> bool:
            for pair in at_work():
                with suppress(psutil.Error):
                    worker, decoder = (p.memory_info().rss - p.memory_info().shared for p in pair)
                    now = {"worker": worker, "decoder": decoder, "both": worker + decoder}
                    peaks.update({name: max(now[name], peaks[name]) for name in now})
            return False

        with watched(weigh):
            made = ingest(config, store=Store(str(tmp_path / "store")), cluster=address)
        assert made.counts["decoded"] == 200
        kind = "embedded" if embedded else "by_path"
        told = {f"{name}_mib": round(peak / MIB) for name, peak in peaks.items()}
        record(f"cluster-memory-{kind}", {"images": 200, "image_mib": 2, **told})
        assert 0 < peaks["both"] < 512 * MIB


def photos(folder: Path, *, count: int, embedded: bool) -> IngestConfig:
    """Noise of 1,000 x 700: PNGs of 2.1 MB, in a folder or in a Parquet file."""
    images = [encoded("PNG", seed=n, size=(2_000, 1_050), mode="L") for n in range(count)]
    (folder / "in").mkdir()
    if embedded:
        rows = [{**row(question=f"q{n}"), "image": i} for n, i in enumerate(images)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "in" / "t.parquet", row_group_size=20)
        source = SourceConfig(format="table", uri=str(folder / "in" / "t.parquet"), name="t")
    else:
        for number, image in enumerate(images):
            (folder / "in" / f"{number}.png").write_bytes(image)
        lines = "\n".join(json.dumps(row(image=f"{n}.png")) for n in range(count))
        paths = table(folder, "t.jsonl", lines.encode()).model_dump()
        source = SourceConfig.model_validate({**paths, "images": str(folder / "in"), "name": "t"})
    return IngestConfig(sources=(source,))
