"""Ingest on a Ray cluster makes the bytes that ingest without one makes, whoever is killed."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import ray_cluster
from infra.store import Store
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import ConfigError
from tasks.ingest import ingest, shards
from tests.hostile import encoded, row, table
from tests.hostile_good import good_sources
from tests.test_decode import slow
from tests.test_ingest_resumed import hashes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_cluster")]
GOOD, BAD = 120, 4


@pytest.fixture(scope="module")
def address(only_cluster: None, tmp_path_factory) -> Iterator[str]:
    """A cluster of two CPUs."""
    os.environ["MARK"] = str(tmp_path_factory.getbasetemp())  # its processes have it from us
    ray_cluster.join("", cpus=2, state=tmp_path_factory.mktemp("state"))
    import ray

    yield ray.get_runtime_context().gcs_address
    ray_cluster.leave()
    del os.environ["MARK"]


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Every source is large, and the cluster larger than this machine."""
    monkeypatch.setattr(shards, "IMAGES_PER_SHARD", 25)
    for name, value in {"IMAGES_ALONE": 2, "IMAGES_AT_ONCE": 20, "IMAGES_PER_BLOCK": 6}.items():
        monkeypatch.setattr(f"tasks.ingest.cluster.{name}", value)
    monkeypatch.setattr("tasks.ingest.cluster.cores", lambda: 1)


def mixed(folder: Path) -> IngestConfig:
    """Images by path and by bytes, good ones in all formats, bad ones, and some twice."""
    sources = [*good_sources(folder, count=GOOD)]
    (folder / "odd.png").write_bytes(encoded("PNG")[:300])
    (folder / "slow.jpg").write_bytes(slow())
    good = [path.name for path in sorted(folder.glob("*.png"))]
    names = [*good[:9], "odd.png", "none.png", "../in/odd.png", "slow.jpg", *good[3:12], "odd.png"]
    lines = "\n".join(json.dumps(row(image=name)) for name in names)
    paths = table(folder, "t.jsonl", lines.encode()).model_dump()
    sources.append(SourceConfig.model_validate({**paths, "images": str(folder), "name": "bad"}))
    return IngestConfig(sources=tuple(sources))


def killed_worker(mark: str) -> list[int]:
    """Kills the first worker that is seen with an image that takes a while; its pid, then."""
    killed: list[int] = []

    def watch() -> None:
        while not killed:
            for process in psutil.process_iter():
                with suppress(psutil.Error):  # it has ended meanwhile, or is not ours to look at
                    decodes = "tasks.decoder.child" in process.cmdline()
                    worker = process.parent()
                    if not decodes or process.environ().get("MARK") != mark or worker is None:
                        continue
                    if process.cpu_times().user > 0.6 and worker.pid != os.getpid():
                        worker.kill()
                        killed.append(worker.pid)
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    return killed


def test_the_cluster_makes_the_same_bytes_though_a_worker_is_killed(tmp_path, address):
    config = mixed(tmp_path / "in")
    alone, shared = Store(str(tmp_path / "alone")), Store(str(tmp_path / "shared"))
    calm = ingest(config, store=alone)
    killed = killed_worker(os.environ["MARK"])
    made = ingest(config, store=shared, cluster=address)
    assert len(killed) == 1
    assert made.counts == calm.counts
    assert (calm.counts["rejected"], calm.counts["images"]) == (BAD, GOOD + 1)
    assert made.fingerprint == calm.fingerprint
    assert hashes(shared, made) == hashes(alone, calm)


def test_what_the_library_has_is_not_decoded_by_the_cluster_either(tmp_path, address):
    config, store = mixed(tmp_path / "in"), Store(str(tmp_path / "store"))
    first, *rest = config.sources
    known = ingest(IngestConfig(sources=tuple(rest)), store=store, cluster=address)
    made = ingest(config, store=store, cluster=address)
    assert made.counts["decoded"] == made.counts["images"] - known.counts["images"]
    assert made.counts["decoded"] < GOOD / 2


def test_an_error_of_a_worker_is_told_as_it_is(tmp_path, address):
    images = [{"bytes": encoded("PNG", seed=n), "path": None} for n in range(20)]
    images.append({"bytes": None, "path": "named.png"})
    rows = [{**row(), "question": f"q{n}", "image": image} for n, image in enumerate(images)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    source = SourceConfig(format="table", uri=str(tmp_path / "t.parquet"), name="t")
    store = Store(str(tmp_path / "store"))
    with pytest.raises(ConfigError, match="names no folder; add images="):
        ingest(IngestConfig(sources=(source,)), store=store, cluster=address)
