"""Several processes that answer: the same answers as one, also where one of them is killed.

Of `make prove`: a Ray cluster takes longer to start than all answers.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from infra import ray_cluster
from infra.ray_settings import own_settings
from infra.store import Store
from schemas.benchmark import BenchmarkConfig
from schemas.config import EvaluateConfig
from schemas.errors import StorageError
from tasks.crew import Crew
from tasks.evaluate import evaluate
from tasks.evaluate.step import ITEMS
from tasks.examine import examine, read_rows
from tasks.respond import Ask, Responder, Told, choose_responder, stored
from tests.benchmark_folders import FOLDERS
from tests.small_run import METHOD, small_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: a process keeps its first cluster's."""
    return tmp_path_factory.mktemp("token")


@pytest.fixture
def cluster(only_cluster: None, token: Path, monkeypatch) -> Iterator[None]:
    """A cluster of this process's own, as soon as it is joined; gone afterwards."""
    monkeypatch.delenv(ray_cluster.OWN, raising=False)
    for name, value in own_settings(token).items():
        monkeypatch.setenv(name, value)
    yield
    ray_cluster.leave()


@pytest.fixture
def base(tiny_root: str) -> Responder:
    return choose_responder("base", store=Store(tiny_root), preset="tiny")


def members() -> list[psutil.Process]:
    """This process's own actors: the children of its raylet that have not ended."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # or one that has ended and is a zombie
            if "ray::Member" in " ".join(one.cmdline()):
                found.append(one)
    return found


@pytest.mark.parametrize("name", ["mme", "seedbench", "xstest"])
def test_two_actors_answer_a_benchmark_as_one_process_does(
    name, base, cluster, tmp_path, monkeypatch
):
    """Pictures and words, options that are ranked, and words alone."""
    FOLDERS[name](tmp_path / name)
    config = BenchmarkConfig(name=name, data=str(tmp_path / name), max_new_tokens=8, batch=2)
    rows, fingerprints = [], set()
    for workers in (1, 2):
        monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / f"cache{workers}"))
        store = Store(str(tmp_path / f"store{workers}"))
        made = examine(config, base, store=store, workers=workers)
        rows.append(read_rows(made, store=store))
        fingerprints.add(made.fingerprint)
        psutil.wait_procs(members(), timeout=30)  # a crew gives back what it holds
        assert not members()
    assert rows[0] == rows[1] and len(fingerprints) == 1


def test_a_killed_actor_changes_no_answer_and_an_error_keeps_its_name(base, cluster, tmp_path):
    batches = [
        [Ask((f"{n}:{k}",), k, f"how many things are in {n} and {k} ?") for k in range(3)]
        for n in range(8)
    ]
    calm: dict[tuple[int, int], Told] = {}
    answering = base.open()
    for number, asks in enumerate(batches):
        answering(asks, 8, lambda place, told, n=number: calm.setdefault((n, place), told))
    crew, found, killed = Crew(partial(base.in_batches, 8), size=2, cluster=""), {}, []

    def kept(number: int, told: list[Told]) -> None:
        assert (number, 0) not in found
        found.update({(number, place): one for place, one in enumerate(told)})
        if not killed:
            victim = members()[0]
            victim.kill()
            killed.append(victim.pid)

    crew.answer(batches, kept)
    assert killed and found == calm
    crew.close()
    gone = base.parents["base"].model_copy(update={"uri": f"{tmp_path}/none/base_model/{'0' * 24}"})
    with pytest.raises(StorageError, match="none"):
        Crew(partial(stored(gone).in_batches, 8), size=2, cluster="").answer(batches[:1], kept)


def test_two_actors_evaluate_every_arm_as_one_process_does(cluster, tmp_path, monkeypatch):
    """The base, a trained guard, and an oracle, whose hints are given by an item's label."""
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    found: dict[str, list[bytes]] = {}
    for workers in (1, 2):
        root = tmp_path / f"store{workers}"
        made = small_run(root)
        config = EvaluateConfig(bootstrap=20, max_new_tokens=2, batch=3, workers=workers)
        seen, store = (made.base, made.labelled, made.features), Store(str(root))
        for arm, model in (("base", None), ("stage2", made.stage2), ("oracle", METHOD)):
            artifact = evaluate(config, arm, *seen, store=store, model=model)
            found.setdefault(arm, []).append((store.local(artifact) / ITEMS).read_bytes())
    assert all(one == two for one, two in found.values())
