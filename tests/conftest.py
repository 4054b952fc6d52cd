"""What all tests share: quiet libraries, and one store with the tiny world and its base model."""

import os
from pathlib import Path

import pytest

from flows.cli.settings import quiet

quiet()
# No server of this machine's: flows that a test calls bring their own.
os.environ.setdefault("PREFECT_API_URL", "")
os.environ["OMP_NUM_THREADS"] = "1"
# The dashboard's Train page costs a process per run; nobody looks at it here.
os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pipeline takes longest: one worker begins with it, the other does all the rest."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """A root that all test workers share; the store's leases see that all is built once.

    Set PSAVLM_TEST_ROOT to a folder of your own to keep it between runs.
    """
    kept = os.environ.get("PSAVLM_TEST_ROOT")
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    return str(Path(kept).resolve() if kept else shared / "tiny-store")
