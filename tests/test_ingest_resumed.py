"""An ingest that is killed goes on where it was, and ends with the bytes of one that was not."""

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra import ray_settings
from infra.files import Files
from infra.integrity import read_manifest
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import IngestConfig, SourceConfig
from tasks.ingest import cluster as clusters
from tasks.ingest import ingest, loading, shards
from tests.hostile import encoded, row, table
from tests.s3_server import BUCKET, s3_server

ROOT = Path(__file__).parents[1]
IMAGES, PER_SHARD = 90, 20
# The shard after which the process dies.
LAST = 3


@pytest.fixture
def config(tmp_path, monkeypatch) -> IngestConfig:
    """Two sources with a broken image each; shards are small."""
    monkeypatch.setattr(shards, "IMAGES_PER_SHARD", PER_SHARD)
    sources = []
    for name, first in (("one", 0), ("two", IMAGES // 2)):
        folder = tmp_path / name
        folder.mkdir()
        shown = [f"{number}.png" for number in range(first, first + IMAGES // 2)]
        for number, image in enumerate(shown, first):
            (folder / image).write_bytes(encoded("PNG", seed=number))
        (folder / "odd.png").write_bytes(b"words")
        lines = [row(image=image) for image in [*shown, "odd.png"]]
        source = table(folder, "t.jsonl", "\n".join(map(json.dumps, lines)).encode())
        told = {**source.model_dump(), "images": str(folder), "name": name}
        sources.append(SourceConfig.model_validate(told))
    return IngestConfig(sources=tuple(sources))


def killed_after(shard: int, config: IngestConfig, root: str, *, cluster: str = "") -> None:
    """Ingests in this process until a shard of the library is there, and dies."""
    shards.IMAGES_PER_SHARD = PER_SHARD
    add, made = shards.Library.add, []

    def last(self: shards.Library, *args: object) -> None:
        add(self, *args)
        made.append(True)
        if len(made) == shard:
            os.kill(os.getpid(), signal.SIGKILL)

    shards.Library.add = last
    ingest(config, store=Store(root), cluster=cluster)


def hashes(store: Store, made: Artifact) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The files of the snapshot, and those of each shard, by sha256."""
    files = Files.at(store.root)
    kept = {}
    for name in files.folders("images"):
        manifest = read_manifest(files, f"images/{name}")
        kept[name] = [entry.sha256 for entry in manifest.files]
    return {entry.path: entry.sha256 for entry in store.manifest(made).files}, kept


@pytest.mark.parametrize("place", ["a folder", "a bucket"])
def test_an_ingest_that_was_killed_ends_with_the_same_bytes(tmp_path, monkeypatch, config, place):
    server = s3_server() if place == "a bucket" else nullcontext({})
    with server as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        root = f"s3://{BUCKET}/store" if settings else str(tmp_path / "store")
        code = (
            "import sys; from schemas.config import IngestConfig\n"
            "from tests.test_ingest_resumed import killed_after\n"
            "config = IngestConfig.model_validate_json(sys.argv[1])\n"
            "killed_after(int(sys.argv[2]), config, sys.argv[3])\n"
        )
        command = [sys.executable, "-c", code, config.model_dump_json(), str(LAST), root]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr[-2_000:]
        store, calm = Store(root), Store(str(tmp_path / "calm"))
        resumed = ingest(config, store=store)
        whole = ingest(config, store=calm)
        assert resumed.fingerprint == whole.fingerprint
        assert (whole.counts["decoded"], whole.counts["rejected"]) == (IMAGES, 2)
        assert resumed.counts["decoded"] == IMAGES - LAST * PER_SHARD
        assert hashes(store, resumed) == hashes(calm, whole)
        assert len(hashes(store, resumed)[1]) == -(-IMAGES // PER_SHARD)


@pytest.mark.timeout(60)
def test_a_source_goes_on_here_where_the_cluster_is_no_larger(tmp_path, monkeypatch, config):
    """Beside `psavlm up`: the first images are read before the cluster is looked at."""
    alone = ingest(config, store=Store(str(tmp_path / "alone")))
    monkeypatch.setenv(ray_settings.OWN, "127.0.0.1:1")
    one = SimpleNamespace(cpus=1)
    monkeypatch.setattr(clusters, "Link", lambda address: nullcontext(one))
    monkeypatch.setattr(clusters, "IMAGES_ALONE", 10)
    monkeypatch.setattr(loading, "MOST_BYTES", 1)  # so that groups wait for their turn
    beside = ingest(config, store=Store(str(tmp_path / "beside")))
    stores = (Store(alone.uri.rsplit("/", 2)[0]), Store(beside.uri.rsplit("/", 2)[0]))
    assert hashes(stores[0], alone) == hashes(stores[1], beside)
