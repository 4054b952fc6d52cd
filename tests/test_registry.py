"""The registry by its client alone: one run and one version per model, aliases, decisions."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.states import Failed

from flows.cli.history import show
from flows.cli.named import model_address
from flows.steps import worth_retrying
from infra.decisions import add_decision, deciding, read_decisions
from infra.port import spare_port
from infra.registry import Live, Registry, Run, page_address, resolve_model
from infra.registry.connect import connected
from infra.store import Store
from schemas.artifact import Artifact
from schemas.decision import Decision, ModelRef, Version
from schemas.errors import ConfigError, OutageError, StorageError
from tasks.promote.history import History


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'deep' / 'mlflow.db'}"


@pytest.fixture
def registry(address: str, monkeypatch) -> Registry:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return Registry()


def model(tmp_path: Path, name: str) -> Artifact:
    def build(folder: Path) -> dict[str, int]:
        (folder / "weights").write_text(name)
        return {}

    return Store(str(tmp_path / "store")).artifact("stage2", 1, config={"name": name}, build=build)


def said(artifact: Artifact, **changes) -> Run:
    return Run(
        **{
            "key": artifact.fingerprint,
            "name": "a run",
            "params": {"lr": 0.1, "seed": 3},
            "metrics": {"risky_obeyed": 0.25},
            "tags": {"commit": "abc"},
            "texts": {"manifest.json": "{}", "evaluation/report.json": "[]"},
            **changes,
        }
    )


def runs(registry: Registry, key: str) -> list:
    client = connected(registry.uri)
    found = client.get_experiment_by_name("psavlm")
    return client.search_runs([found.experiment_id], f"tags.psavlm_key = '{key}'")


# --- figures of a run that is going on ---


def test_figures_are_logged_by_step_into_the_run_that_the_model_is_registered_with(
    registry: Registry, tmp_path: Path
) -> None:
    artifact = model(tmp_path, "live")
    registry.versions() or registry.log_run(said(artifact, key="another"))  # a registry is there
    live = Live(key=artifact.fingerprint, name="stage2")
    for step in (10, 20):
        live.log({"lora/loss": 30.0 / step}, step)
        (run,) = runs(registry, artifact.fingerprint)
        assert run.info.status == "RUNNING"
    live.end(well=False)
    assert runs(registry, artifact.fingerprint)[0].info.status == "FAILED"
    again = Live(key=artifact.fingerprint, name="stage2")
    again.log({"lora/loss": 1.0}, 30)
    again.end(well=True)
    version = registry.register(artifact, said(artifact))
    (run,) = runs(registry, artifact.fingerprint)
    assert (run.info.run_id, run.info.status) == (version.run, "FINISHED")
    history = connected(registry.uri).get_metric_history(version.run, "lora/loss")
    assert [(point.step, point.value) for point in history] == [(10, 3.0), (20, 1.5), (30, 1.0)]


def test_figures_make_no_registry_and_end_no_work(tmp_path: Path, caplog) -> None:
    nowhere = f"sqlite:///{tmp_path / 'mlflow.db'}"
    live = Live(key="k", name="n", uri=nowhere)
    live.log({"loss": 1.0}, 1)
    live.end(well=True)
    assert not list(tmp_path.iterdir())
    away = Live(key="k", name="n", uri=f"http://127.0.0.1:{spare_port()}")
    away.log({"loss": 1.0}, 2)
    away.log({"loss": 1.0}, 3)
    assert caplog.text.count("no live figures") == 1


# --- runs and versions ---


def register_twice(registry: Registry, tmp_path: Path) -> None:
    artifact = model(tmp_path, "one")
    first = registry.register(artifact, said(artifact))
    assert registry.register(artifact, said(artifact)) == first
    assert isinstance(first.version, int)
    assert (first.fingerprint, first.uri) == (artifact.fingerprint, artifact.uri)
    assert (first.step, first.root) == ("stage2", artifact.uri.rsplit("/", 2)[0])
    (run,) = runs(registry, artifact.fingerprint)
    assert (run.info.run_id, run.info.status) == (first.run, "FINISHED")
    assert run.data.params == {"lr": "0.1", "seed": "3"}
    assert run.data.metrics == {"risky_obeyed": 0.25}
    assert run.data.tags["commit"] == "abc"
    client = connected(registry.uri)
    assert len(client.get_metric_history(first.run, "risky_obeyed")) == 1
    assert [f.path for f in client.list_artifacts(first.run)] == ["evaluation", "manifest.json"]
    source = client.get_model_version("psavlm", str(first.version)).source
    assert source == run.info.artifact_uri


def aliases_move(registry: Registry, tmp_path: Path) -> None:
    two = [model(tmp_path, name) for name in ("old", "new")]
    old, new = (registry.register(artifact, said(artifact)) for artifact in two)
    registry.point("champion", old.version)
    registry.point("champion", new.version)
    registry.point("previous", old.version)
    assert registry.aliases() == {"champion": new.version, "previous": old.version}
    found = {
        name: registry.find(name) for name in ("champion", str(old.version), two[0].fingerprint)
    }
    assert [v.version for v in found.values()] == [new.version, old.version, old.version]
    assert [v.aliases for v in registry.versions()][-2:] == [("previous",), ("champion",)]
    registry.unpoint("previous")
    assert registry.find("previous") is None
    assert resolve_model("champion") == two[1].uri == model_address("champion", "")
    assert resolve_model(str(old.version)) == two[0].uri
    moved = registry.move(old.version, "/elsewhere/stage2/abc")
    assert (moved.uri, moved.root, moved.version) == (
        "/elsewhere/stage2/abc",
        "/elsewhere",
        old.version,
    )


def test_a_model_is_logged_and_registered_once(registry, tmp_path):
    register_twice(registry, tmp_path)


def test_aliases_move_and_find_their_version(registry, tmp_path):
    aliases_move(registry, tmp_path)


def test_a_run_that_says_more_is_completed_and_stays_one(registry, tmp_path):
    artifact = model(tmp_path, "more")
    first = registry.log_run(said(artifact, metrics={}))
    page = tmp_path / "report.html"
    page.write_text("<p>")
    more = said(artifact, files={"report/report.html": page})
    assert registry.log_run(more) == first
    (run,) = runs(registry, artifact.fingerprint)
    assert run.data.metrics == {"risky_obeyed": 0.25}
    files = connected(registry.uri).list_artifacts(first, "report")
    assert [f.path for f in files] == ["report/report.html"]


@pytest.mark.parametrize("value", [0.1, 0.4])
def test_a_run_shows_the_metrics_of_what_was_said_last(registry, tmp_path, value):
    artifact = model(tmp_path, f"said again {value}")
    name = registry.log_run(said(artifact))
    client = connected(registry.uri)
    again = said(artifact, metrics={"risky_obeyed": value}, tags={"evaluation": "another"})
    for _ in range(2):
        assert registry.log_run(again) == name
        assert client.get_run(name).data.metrics == {"risky_obeyed": value}
        # As if the process had died before it could say that all is logged.
        client.delete_tag(name, "psavlm_content")
    assert registry.log_run(said(artifact)) == name
    assert client.get_run(name).data.metrics == {"risky_obeyed": 0.25}
    history = client.get_metric_history(name, "risky_obeyed")
    assert [point.value for point in history] == [0.25, value, 0.25]


def test_two_roots_that_register_one_model_at_once_make_one_version(
    registry, tmp_path, monkeypatch
):
    """The other process registers where this one has looked and not yet created."""
    artifact, create = model(tmp_path, "at once"), MlflowClient.create_model_version
    other = []

    def late(*args, **kwargs):
        monkeypatch.setattr(MlflowClient, "create_model_version", create)
        other.append(Registry(registry.uri).register(artifact, said(artifact)))
        return create(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_model_version", late)
    assert [registry.register(artifact, said(artifact))] == other
    same = [v for v in registry.versions() if v.fingerprint == artifact.fingerprint]
    assert same == other


def test_a_sweep_is_a_run_with_children(registry, tmp_path):
    parent = registry.log_run(Run(key="sweep 1", name="sweep"))
    children = [
        registry.log_run(Run(key=f"sweep 1/{n}", name=f"point {n}"), parent=parent) for n in "ab"
    ]
    assert len({parent, *children}) == 3
    for child in children:
        tags = connected(registry.uri).get_run(child).data.tags
        assert tags["mlflow.parentRunId"] == parent


def test_what_the_registry_does_not_know_is_told_with_what_it_has(registry, tmp_path):
    with pytest.raises(ConfigError, match=r"no model 'campion'; it has .*psavlm registry"):
        resolve_model("campion")
    assert resolve_model("root/stage2/abc") == "root/stage2/abc"


@pytest.mark.parametrize(("name", "address"), [("", ""), ("champion", "root/stage2/abc")])
def test_a_model_is_named_in_exactly_one_way(name, address):
    with pytest.raises(ConfigError, match="give one of them"):
        model_address(name, address)


def test_looking_makes_no_database(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Registry().uri == f"sqlite:///{tmp_path}/.psavlm/mlflow.db"
    assert Registry().versions() == [] and Registry().aliases() == {}
    with pytest.raises(ConfigError, match="it has nothing yet. Give the address root/step/"):
        resolve_model("champion")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_down_is_told_soon_and_without_credentials(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@127.0.0.1:{port}")
    with pytest.raises(OutageError) as caught:
        Registry().versions()
    failed = Failed(data=caught.value)
    assert asyncio.run(worth_retrying(None, None, failed))
    assert not asyncio.run(worth_retrying(None, None, Failed(data=StorageError("damaged"))))
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value) and "MLFLOW_TRACKING_URI" in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("", "http://127.0.0.1:5000"),
        ("http://ann:secret@registry:80/", "http://registry:80"),
        ("sqlite:///elsewhere.db", ""),
    ],
)
def test_links_lead_to_the_page_of_the_registry_in_use(monkeypatch, uri, page):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert page_address("http://127.0.0.1:5000") == page


def test_a_shared_store_with_a_registry_of_ones_own_is_warned_of(registry, caplog):
    registry.check("/a/folder")
    assert caplog.text == ""
    registry.check("s3://bucket/prefix")
    assert "set MLFLOW_TRACKING_URI to a server" in caplog.text


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1",
            "--port", str(port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db",
            "--artifacts-destination", str(tmp_path / "artifacts"),
        ],
        cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_TRACKING_URI": ""},
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 180
        while not _healthy(url):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_a_server_takes_the_same_runs_versions_and_aliases(server, tmp_path, monkeypatch):
    """Over HTTP numbers are texts, and a version's source may not be a path of this machine."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    register_twice(Registry(), tmp_path)
    aliases_move(Registry(), tmp_path)


# --- decisions ---


def decided(number: int, action: str, candidate: str, reference: str = "base") -> Decision:
    refs = [ModelRef(step="stage2", fingerprint=f, uri=f) for f in (candidate, reference)]
    return Decision(
        number=number,
        time="2026-01-01T00:00:00+00:00",
        action=action,
        candidate=refs[0],
        reference=refs[1],
        opponent="base" if reference == "base" else "champion",
        reasons=("because",),
    )


def test_the_table_says_how_many_reasons_it_leaves_out_and_where_there_is_no_decision(capsys):
    version = Version(
        version=1, fingerprint="a", uri="/r/stage2/a", step="stage2", root="/r", run="1",
        created="2026-01-01T00:00:00+00:00", aliases=("champion",),
    )  # fmt: skip
    one = decided(1, "promoted", "a").model_copy(update={"reasons": ("better",) * 6})
    show([version], [one], "/r")
    assert "better and 5 more" in capsys.readouterr().out
    show([version], [], "/misspelt")
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "no decisions in /misspelt" and "champion" in out


def test_a_decision_is_written_once(tmp_path):
    root = str(tmp_path)
    with deciding(root):
        assert add_decision(root, decided(1, "promoted", "a"))
    assert not add_decision(root, decided(1, "promoted", "b"))
    assert add_decision(root, decided(2, "refused", "b", "a"))
    assert read_decisions(root) == [decided(1, "promoted", "a"), decided(2, "refused", "b", "a")]
    assert sorted(p.name for p in (tmp_path / "decisions").iterdir()) == ["1.json", "2.json"]


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_history_with_a_hole_is_not_believed(tmp_path, damage):
    root = str(tmp_path)
    for number in (1, 2, 3):
        add_decision(root, decided(number, "promoted", f"m{number}"))
    path = tmp_path / "decisions" / "2.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(path.read_text()[:50])
    with pytest.raises(StorageError, match="bring it back from a backup"):
        read_decisions(root)


def history(*acts: tuple[str, str, str]) -> History:
    return History(tuple(decided(n, *act) for n, act in enumerate(acts, start=1)))


def test_champions_follow_from_the_decisions():
    told = history(
        ("promoted", "a", "base"),
        ("refused", "b", "a"),
        ("promoted", "c", "a"),
        ("promoted", "d", "c"),
    )
    assert [m.fingerprint for m in told.champions] == ["a", "c", "d"]
    back = told.and_then(decided(5, "rolled_back", "c", "d"))
    assert (back.champion.fingerprint, back.previous.fingerprint) == ("c", "a")
    assert back.sent_back("d").number == 5 and back.sent_back("c") is None
    further = back.and_then(decided(6, "rolled_back", "a", "c"))
    assert (further.champion.fingerprint, further.previous) == ("a", None)
    forgiven = further.and_then(decided(7, "promoted", "d", "a"))
    assert forgiven.sent_back("d") is None and forgiven.next == 8
    assert History(()).champion is None and History(()).next == 1


def test_only_a_refusal_under_the_same_champion_is_the_same_decision():
    refusal = decided(2, "refused", "b", "a")
    told = history(("promoted", "a", "base"), ("refused", "b", "a"), ("refused", "c", "a"))
    assert told.same(refusal) == refusal
    other = Decision.model_validate({**dict(refusal), "reasons": ("other",)})
    assert told.same(other) is None
    assert told.and_then(decided(4, "promoted", "d", "a")).same(refusal) is None
    assert told.same(decided(1, "promoted", "a")) is None


def test_a_process_that_dies_while_it_makes_the_database_leaves_none(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'new.db'}"

    def dead(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", dead)
        with pytest.raises(KeyboardInterrupt):
            connected(uri)
    assert list(tmp_path.iterdir()) == []
    assert connected(uri).search_registered_models() == []
    assert [path.name for path in tmp_path.iterdir()] == ["new.db"]
