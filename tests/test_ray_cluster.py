"""What is said where Ray itself does not start."""

from pathlib import Path

import pytest

from infra import ray_cluster, ray_settings
from schemas.errors import TrainingError


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path: Path) -> None:
    """What joining puts into the environment is gone afterwards."""
    monkeypatch.delenv(ray_settings.OWN, raising=False)
    for name, value in ray_settings.own_settings(tmp_path).items():
        monkeypatch.setenv(name, value)


def test_a_node_that_ray_gives_up_is_one_message(monkeypatch, tmp_path: Path):
    import ray

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray's node.py does

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(TrainingError, match=r"timed out .* Run the same command again"):
        ray_cluster.join(cpus=1, state=tmp_path)


def test_other_faults_keep_their_name(monkeypatch, tmp_path: Path):
    import ray

    def broken(**_: object) -> None:
        raise RuntimeError("another")

    monkeypatch.setattr(ray, "init", broken)
    with pytest.raises(RuntimeError, match="another"):
        ray_cluster.join(cpus=1, state=tmp_path)
