"""Images encoded by a Ray cluster of two nodes: the features of one process (`make prove`)."""

import hashlib
import io
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from infra import ray_cluster
from infra.ray_settings import own_settings
from schemas.config import EncodeConfig
from schemas.errors import StorageError
from tasks.encode import FeatureCache, cluster, encode
from tasks.encode.cluster import Task, on_cluster
from tests.squares import squares
from tests.to_encode import Run

pytestmark = [
    pytest.mark.slow, pytest.mark.usefixtures("only_cluster"), pytest.mark.timeout(900),
]  # fmt: skip
IMAGES = 240


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tells the cluster's processes from others."""
    return str(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def address(mark: str) -> Iterator[str]:
    """Two nodes of one CPU each; once, because a process keeps its first cluster's token."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MARK": mark, **own_settings(Path(mark))}.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            made.add_node(num_cpus=1)
            yield made.address
        finally:
            ray_cluster.leave()
            made.shutdown()


def pictures() -> dict[str, bytes]:
    found = {}
    for number in range(IMAGES):
        out = io.BytesIO()
        squares(number, colour="red", count=1 + number % 3).save(out, "PNG")
        found[hashlib.sha256(out.getvalue()).hexdigest()] = out.getvalue()
    return found


def kill_one(mark: str, killed: list[int]) -> None:
    """SIGKILL of an encoder a second after it was first seen at work."""
    while True:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get("MARK") == mark
                if ours and "ray::Encoder.encode" in " ".join(process.cmdline()):
                    time.sleep(1.0)
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)
                    return
        time.sleep(0.05)


def test_two_nodes_make_the_features_of_one_process_though_an_encoder_is_killed(
    address, mark, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster, "IMAGES_ALONE", 8)
    monkeypatch.setattr(cluster, "IMAGES_AT_ONCE", 8)
    pngs = pictures()
    ids = sorted(pngs)
    alone, run = (Run(tmp_path / name, "llava", pngs) for name in ("alone", "spread"))
    expected = FeatureCache(alone.encoded(ids, batch=8)).batch(ids)
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(mark, killed), daemon=True)
    killer.start()
    made = encode(
        EncodeConfig(batch=8), run.labelled(ids), run.samples, run.base,
        store=run.store, cluster=address,
    )  # fmt: skip
    killer.join()
    assert len(killed) == 1
    assert made.counts["images"] == made.counts["encoded"] == IMAGES
    assert torch.equal(FeatureCache(made).batch(ids), expected)
    assert len(list(Path(run.store.root, "features").iterdir())) >= IMAGES // 8


def test_a_root_that_the_cluster_does_not_see_is_told(address, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "IMAGES_ALONE", 0)
    run = Run(tmp_path / "here", "llava")
    missing = run.base.model_copy(update={"fingerprint": "0" * 24})
    task = Task(
        config=EncodeConfig(), samples=run.samples, base=missing, root=run.store.root, encoder="x"
    )
    with pytest.raises(StorageError, match="sees no base_model in .* a bucket or a shared folder"):
        on_cluster(task, sorted(run.pngs), cluster=address, tick=lambda done, note: None)
