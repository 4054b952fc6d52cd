"""What all tests share: quiet libraries, and one store with the tiny world and its base model."""

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.settings import quiet

quiet()
# As the command does: Prefect makes this folder only where the one above it is there.
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
# No server of this machine's: flows that a test calls bring their own.
os.environ.setdefault("PREFECT_API_URL", "")
os.environ["OMP_NUM_THREADS"] = "1"
# The dashboard's Train page costs a process per run; nobody looks at it here.
os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pipeline takes longest: one worker begins with it, the other does all the rest.

    It makes the base model first; meanwhile the servers' tests have their cluster.
    """
    turns = {"test_pipeline.py": 0, "test_servers.py": 1}
    items.sort(key=lambda item: turns.get(item.path.name, 2))


def pytest_sessionfinish() -> None:
    """Stop the Prefect servers of flows that tests called: a worker of xdist ends without it."""
    if module := sys.modules.get("prefect.server.api.server"):
        for server in list(module.SubprocessASGIServer._instances.values()):
            server.stop()


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """A root that all test workers share; the store's leases see that all is built once.

    Set PSAVLM_TEST_ROOT to a folder of your own to keep it between runs.
    """
    kept = os.environ.get("PSAVLM_TEST_ROOT")
    return str(Path(kept).resolve() if kept else shared(tmp_path_factory, worker_id) / "tiny-store")


@pytest.fixture(scope="session")
def encoded_root(tiny_root: str) -> str:
    """The shared root with the tiny world's data, the base model and the features in it."""
    from flows.line import pipeline, plainly, up_to
    from infra.store import Store
    from schemas.presets import Parameters, resolve

    up_to(pipeline(resolve(Parameters()), store=Store(tiny_root), do=plainly), "encode")
    return tiny_root


@pytest.fixture(scope="module")
def only_cluster(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """While a module holds this, no other module that asks for it has a Ray cluster."""
    with (shared(tmp_path_factory, worker_id) / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all test workers see."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent
