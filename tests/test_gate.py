"""The gate with real models: better ones pass, worse ones are refused, and say why."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import mlflow
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

import tasks.promote.step as promote_step
from flows.cli.main import application
from infra.fingerprint import content_hash
from infra.parts import read_parts, write_parts
from infra.registry import Registry, resolve_model
from infra.registry.connect import connected
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from schemas.decision import Decision
from schemas.errors import ConfigError
from schemas.gate import GateConfig, load_gate
from schemas.samples import ROWS
from tasks.base_model import FOLDER
from tasks.evaluate.judging import EXACT, MARKERS
from tasks.evaluate.step import read_report
from tasks.promote import PromoteInputs, promote, register_candidate, rollback
from tasks.promote.history import History
from tasks.promote.records import follow
from tasks.promote.spending import Look
from tests.gate_models import EVALUATE, WORSE, Bench, all_items, bench, middling, whole_run

torch.set_num_threads(1)
GATE = load_gate("default")
QUICK = list(WORSE)[:3]
STEPS_OF_A_RUN = (
    "tiny_world", "ingest", "validate", "balance", "base_model", "encode", "stage1", "stage2",
    "evaluate", "report",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tiny_root: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(str(tmp_path_factory.mktemp("gate") / "store"), tiny_root)


@pytest.fixture(scope="module")
def middle(models: Bench):
    return models.changed(models.good, "middling", middling)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry's database with its tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    connected(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def house(models: Bench, empty_database: Path, tmp_path: Path, monkeypatch) -> Iterator[Bench]:
    """The bench with no decision yet, and an empty registry."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield models
    shutil.rmtree(Path(models.store.root) / "decisions", ignore_errors=True)


def ask(house: Bench, model, gate: GateConfig = GATE, **options) -> Decision:
    return promote(gate, house.inputs(model), store=house.store, **options)


def decisions(house: Bench) -> list[str]:
    return sorted(path.name for path in Path(house.store.root, "decisions").glob("*.json"))


def aliases() -> dict[str, int]:
    return Registry().aliases()


def failed(decision: Decision) -> set[str]:
    return {check.name for check in decision.checks if check.passed is False}


def changed_gate(**changes) -> GateConfig:
    return GateConfig.model_validate({**GATE.model_dump(), **changes})


# --- who is promoted ---


def test_a_model_better_than_the_base_becomes_champion_once(house, middle):
    first = ask(house, middle)
    assert (first.action, first.opponent, first.number) == ("promoted", "base", 1)
    assert first.reference.fingerprint == house.base.fingerprint
    assert all(check.passed for check in first.checks)
    again = ask(house, middle)
    assert (again.action, again.repeated) == ("already_champion", True)
    assert again.reasons == ("already champion, version 1",)
    assert decisions(house) == ["1.json"]
    assert aliases() == {"candidate": 1, "champion": 1}
    assert resolve_model("champion") == middle.uri


@pytest.mark.parametrize("name", QUICK)
def test_a_degraded_model_is_refused_for_the_right_reason(house, middle, name):
    ask(house, middle)
    change, condition = WORSE[name]
    decision = ask(house, house.changed(house.good, name, change))
    assert (decision.action, decision.opponent) == ("refused", "champion")
    assert f"{condition}/champion" in failed(decision)
    assert len(decision.reasons) == len(failed(decision))
    assert aliases() == {"candidate": 2, "champion": 1}


def test_a_better_model_passes_and_a_rollback_restores(house, middle):
    ask(house, middle)
    better = ask(house, house.good)
    assert (better.action, better.opponent, better.candidate.version) == ("promoted", "champion", 2)
    assert aliases() == {"candidate": 2, "champion": 2, "previous": 1}
    back = rollback(house.store)
    assert (back.action, back.number) == ("rolled_back", 3)
    assert back.candidate.fingerprint == middle.fingerprint
    assert aliases() == {"candidate": 2, "champion": 1}
    with pytest.raises(ConfigError, match="no previous champion"):
        rollback(house.store)
    # A nightly run must not bring back what a person has taken off.
    refused = ask(house, house.good)
    assert refused.action == "refused" and "rolled back by decision 3" in refused.reasons[0]
    assert ask(house, house.good, again=True).action == "promoted"
    assert aliases() == {"candidate": 2, "champion": 2, "previous": 1}
    assert decisions(house) == [f"{number}.json" for number in range(1, 6)]


def test_the_gates_rates_are_those_of_the_reports(house, middle):
    ask(house, middle)
    decision = ask(house, house.good)
    arms = {"champion": middle, "base": None}
    for check in (check for check in decision.checks if check.part == "all"):
        name, opponent = check.name.split("/")
        theirs = read_report(house.evaluated(arms[opponent]), store=house.store).metrics[name]
        mine = read_report(house.evaluated(house.good), store=house.store).metrics[name]
        for rate, metric in ((check.candidate, mine), (check.reference, theirs)):
            assert (rate.value, rate.n) == (pytest.approx(metric.value), metric.n)
        assert check.low <= check.difference <= check.high
        assert check.difference == pytest.approx(mine.value - theirs.value)


def test_a_champion_of_another_base_is_asked_with_its_own_features(house, middle):
    def build(folder: Path) -> dict[str, int]:
        shutil.copytree(house.store.local(house.base) / FOLDER, folder / FOLDER)
        (folder / "note.txt").write_text("another base\n")
        return {"parameters": 1}

    base = house.store.artifact("base_model", 1, config={"other": True}, build=build)
    features = house.features
    other = replace(house, base=base)
    model = other.changed(middle, "on another base", lambda files: None)
    assert ask(other, model).action == "promoted"
    decision = ask(house, house.good)
    assert decision.action == "promoted" and decision.opponent == "champion"
    asked = [house.store.find(*uri.split("/")) for uri in decision.evaluations]
    parents = [house.store.manifest(artifact).parents for artifact in asked]
    assert [p["base"] for p in parents] == [
        f"base_model/{b.fingerprint}" for b in (house.base, house.base, base)
    ]
    assert parents[0]["features"] == f"encode/{features.fingerprint}" != parents[2]["features"]


def test_without_the_gate_a_model_is_a_candidate_only(house, middle):
    version = register_candidate(house.inputs(middle), store=house.store)
    assert register_candidate(house.inputs(middle), store=house.store) == version
    assert (version.version, version.root) == (1, house.store.root)
    assert aliases() == {"candidate": 1}
    assert decisions(house) == []


def test_a_models_run_says_both_ratios_its_preset_and_shows_the_reports_plots(house, tmp_path):
    def made(step: str, *, parents: dict | None = None, **config) -> Artifact:
        def build(folder: Path) -> dict[str, int]:
            (folder / "plots").mkdir()
            for name in ("report.html", "plots/risk.svg", "rows.parquet"):
                (folder / name).touch()
            return {}

        return house.store.artifact(step, 1, config=config, parents=parents or {}, build=build)

    orders = [made("balance", clean_per_unsafe=ratio) for ratio in (0.5, 3.0)]
    first = made("stage1", seed=1, parents={"balanced": orders[0]})
    second = made("stage2", seed=1, parents={"balanced": orders[1], "start": first})
    given = {**dict(house.inputs(house.good)), "model": second, "report": made("report")}
    version = register_candidate(
        PromoteInputs(**{**given, "preset": "tiny-hard"}), store=house.store
    )
    client = connected(Registry().uri)
    run = client.get_run(version.run)
    assert run.data.params == {
        "seed": "1", "clean_per_unsafe": "0.5", "stage2_clean_per_unsafe": "3.0"
    }  # fmt: skip
    assert run.data.tags["preset"] == "tiny-hard"
    assert [f.path for f in client.list_artifacts(version.run, "report")] == [
        "report/plots", "report/report.html"
    ]  # fmt: skip
    assert [f.path for f in client.list_artifacts(version.run, "report/plots")] == [
        "report/plots/risk.svg"
    ]


# --- what is no evidence ---


def test_too_few_items_are_refused(house, middle):
    decision = ask(house, middle, changed_gate(min_risky=201))
    assert decision.reasons == (
        "too few items: 200 risky ones, gate 'default' asks for 201; give a bigger test split",
    )
    assert decision.checks == ()


def test_another_judge_is_refused(house, middle):
    decision = ask(house, middle, changed_gate(judges=["refusal_markers"]))
    assert decision.reasons[0].startswith("another judge: 560 by exact_targets")


def test_free_text_alone_cannot_show_that_answers_are_still_right(house):
    """Gibberish is no refusal by markers, and no less exact where no text equals another."""

    def build(folder: Path) -> dict[str, int]:
        rows = read_parts(house.store.local(house.labelled) / "rows", ROWS).to_pylist()
        for row in rows:
            row["extra"] = row["extra"].replace(EXACT, MARKERS)
        write_parts(pa.Table.from_pylist(rows, schema=ROWS), folder / "rows")
        return {"accepted": len(rows)}

    parents = {"samples": house.samples}
    text = house.store.artifact("validate", 1, config={"free": True}, parents=parents, build=build)
    decision = ask(replace(house, labelled=text), house.good, changed_gate(judges=[MARKERS]))
    assert decision.reasons == (
        "exact answers cannot be judged: 0 of 300 ordinary benign items have exact targets, gate "
        "'default' asks for 300; give more of them exact targets",
    )


def test_other_items_are_refused(house):
    def build(folder: Path) -> dict[str, int]:
        rows = read_parts(house.store.local(house.labelled) / "rows", ROWS)
        write_parts(rows.slice(0, 100), folder / "rows")
        return {"accepted": 100}

    parents = {"samples": house.samples}
    fewer = house.store.artifact("validate", 1, config={"of": 100}, parents=parents, build=build)
    other = replace(house, labelled=fewer).evaluated(None)
    inputs = house.inputs(house.good, base_evaluation=other)
    (reason,) = promote(GATE, inputs, store=house.store).reasons
    assert reason.startswith("other items: 460 of the candidate's 560 and the base's 100 items")


def test_another_way_of_asking_is_refused(house):
    fewer = EvaluateConfig.model_validate({**EVALUATE.model_dump(), "max_new_tokens": 1})
    inputs = house.inputs(house.good, base_evaluation=house.evaluated(None, fewer))
    (reason,) = promote(GATE, inputs, store=house.store).reasons
    assert "the base was evaluated in another way" in reason and "max_new_tokens" in reason


def test_an_evaluation_of_another_model_is_refused(house, middle):
    inputs = house.inputs(house.good, evaluation=house.evaluated(middle))
    (reason,) = promote(GATE, inputs, store=house.store).reasons
    assert "the evaluation of the candidate belongs to another model" in reason
    assert Registry().versions() == []


def test_what_is_no_trained_stage_is_refused(house):
    good = house.inputs(house.good)
    inputs = PromoteInputs.model_validate({**dict(good), "model": house.base})
    (reason,) = promote(GATE, inputs, store=house.store).reasons
    assert "step 'base_model', not of stage1 or stage2" in reason


@pytest.mark.parametrize("which", ["model", "evaluation"])
def test_a_damaged_artifact_is_refused(house, which):
    model = house.changed(house.good, "to be damaged", lambda files: None)
    inputs = house.inputs(model)
    artifact = getattr(inputs, which)
    manifest = house.store.manifest(artifact)
    name = "model/safety.safetensors" if which == "model" else "items.parquet"
    path = Path(artifact.uri, "attempts", manifest.attempt, name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    decision = promote(GATE, inputs, store=house.store)
    assert decision.action == "refused"
    assert decision.reasons[0].startswith("unverified artifact: damaged: ")
    assert decision.candidate.version is None and Registry().versions() == []


# --- decisions ---


def test_the_same_question_gets_the_same_decision(house, middle):
    strict = changed_gate(min_risky=300)
    first, second = ask(house, middle, strict), ask(house, middle, strict)
    assert second == Decision.model_validate({**dict(first), "repeated": True})
    other = ask(house, middle, changed_gate(min_risky=301))
    assert (other.number, other.repeated) == (2, False)
    assert decisions(house) == ["1.json", "2.json"]


def test_the_best_of_several_candidates_shares_alpha_with_them(house):
    tried = [ask(house, house.good, dry_run=True, tried=number) for number in (1, 4)]
    first = Look().alpha(GATE.alpha)
    assert [decision.checks[0].bar for decision in tried] == [first, pytest.approx(first / 4)]
    wholes = ([c for c in decision.checks[1:] if c.part == "all"] for decision in tried)
    for once, best in zip(*wholes, strict=True):
        assert once.high - once.low < best.high - best.low
    assert tried[0].gate == content_hash(GATE) != tried[1].gate
    assert tried[1].reasons[-1:] == (
        "the best of 4 candidates compared on these items: alpha is 0.05 / 4",
    )


def test_a_dry_run_writes_nothing(models, middle, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none/mlflow.db")
    decision = ask(models, middle, dry_run=True)
    assert (decision.action, decision.number) == ("promoted", None)
    assert list(tmp_path.iterdir()) == [] and decisions(models) == []


def test_a_champion_of_another_root_is_not_moved(house, middle, tmp_path):
    ask(house, middle)
    other = Store(str(tmp_path / "other"))
    decision = promote(GATE, house.inputs(house.good), store=other)
    assert decision.action == "refused" and "was decided in" in decision.reasons[0]
    assert aliases()["champion"] == 1 and resolve_model("champion") == middle.uri
    with pytest.raises(ConfigError, match="was decided in"):
        rollback(other)


def test_a_lost_registry_is_made_again_from_the_decisions(house, middle, tmp_path, monkeypatch):
    ask(house, middle)
    ask(house, house.good)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new/mlflow.db")
    assert ask(house, house.good).action == "already_champion"
    fingerprints = {v.aliases: v.fingerprint for v in Registry().versions()}
    assert fingerprints == {
        ("previous",): middle.fingerprint,
        ("champion",): house.good.fingerprint,
    }


def test_a_root_that_was_moved_keeps_its_champion(house, middle, tmp_path):
    ask(house, middle)
    old, new = Path(house.store.root), tmp_path / "moved"
    old.rename(new)
    try:
        store = Store(str(new))
        follow(Registry(), History.read(store.root), store=store)
        assert resolve_model("champion") == f"{new}/{middle.step}/{middle.fingerprint}"
        assert aliases() == {"candidate": 1, "champion": 1}
    finally:
        new.rename(old)


# --- crashes ---

CALLS = (
    "create_experiment", "create_run", "log_batch", "log_text", "set_terminated", "set_tag",
    "create_registered_model", "create_model_version", "set_registered_model_alias",
    "delete_registered_model_alias",
)  # fmt: skip


class Died(BaseException):
    """The process is gone; nothing may catch this."""


class Fate:
    """Dies before the call of a given number that writes: it has ended all calls before it."""

    def __init__(self, monkeypatch, *, at: int) -> None:
        self.left = at
        for name in CALLS:
            self._watch(monkeypatch, mlflow.MlflowClient, name)
        self._watch(monkeypatch, promote_step, "add_decision")

    def _watch(self, monkeypatch, owner: object, name: str) -> None:
        call = getattr(owner, name)

        def watched(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise Died
            return call(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)


def state(house: Bench) -> tuple:
    registry = Registry()
    client = connected(registry.uri)
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "psavlm"]
    runs = client.search_runs([experiment])
    found = [
        json.loads(Path(house.store.root, "decisions", n).read_text()) for n in decisions(house)
    ]
    return (
        [(v.version, v.fingerprint, v.aliases) for v in registry.versions()],
        sorted((r.data.tags["psavlm_key"], len(r.data.metrics), r.info.status) for r in runs),
        [(d["number"], d["action"], d["candidate"]["version"]) for d in found],
    )


def test_a_promotion_killed_at_any_call_ends_the_same(house, middle, tmp_path, monkeypatch):
    ask(house, middle)
    start, folder = tmp_path / "start", Path(house.store.root, "decisions")
    shutil.copytree(folder, start)
    shutil.copy(tmp_path / "mlflow.db", start)
    ask(house, house.good)
    expected, at, alive = state(house), 0, False
    assert [version[2] for version in expected[0]] == [("previous",), ("candidate", "champion")]
    while not alive:
        at += 1
        shutil.rmtree(folder)
        shutil.copytree(start, folder, ignore=shutil.ignore_patterns("*.db"))
        database = shutil.copy(start / "mlflow.db", tmp_path / f"{at}.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        with pytest.MonkeyPatch.context() as patch:
            fate = Fate(patch, at=at)
            with contextlib.suppress(Died):
                ask(house, house.good)
            alive = fate.left > 0
        ask(house, house.good)
        assert state(house) == expected, f"killed at call {at}"
    assert at > 10


def test_a_rollback_killed_before_the_registry_hears_of_it_is_finished_not_repeated(
    house, middle, monkeypatch
):
    ask(house, middle)
    ask(house, house.good)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", _dies)
        with pytest.raises(Died):
            rollback(house.store)
    assert aliases()["champion"] == 2
    finished = rollback(house.store)
    assert (finished.action, finished.number, finished.repeated) == ("rolled_back", 3, True)
    assert aliases() == {"candidate": 2, "champion": 1}
    assert len(decisions(house)) == 3


def _dies(*_args, **_kwargs) -> None:
    raise Died


# --- the command ---


def test_the_history_is_shown_as_a_table_and_as_json(house, middle):
    ask(house, middle)
    ask(house, house.good)
    root = house.store.root
    told = CliRunner().invoke(application(), ["registry", "--root", root, "--json"])
    line = json.loads(told.stdout)
    assert [v["aliases"] for v in line["versions"]] == [["previous"], ["candidate", "champion"]]
    assert [d["action"] for d in line["decisions"]] == ["promoted", "promoted"]
    shown = CliRunner().invoke(application(), ["registry", "--root", root]).stdout
    assert "candidate, champion" in " ".join(shown.split())
    assert middle.fingerprint[:10] in shown and "risky requests obeyed" in shown
    back = CliRunner().invoke(application(), ["rollback", "--root", root])
    assert back.exit_code == 0 and "decision 3: rolled back" in back.stdout


def test_an_empty_registry_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shown = CliRunner().invoke(application(), ["registry"])
    assert shown.exit_code == 0 and "no model is registered yet" in shown.stdout
    assert list(tmp_path.iterdir()) == []


# --- the longer proof ---


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_degraded_checkpoints_of_a_whole_run_are_refused(
    tiny_root, only_cluster, empty_database, tmp_path, monkeypatch
):
    """Stage 2 as `psavlm run` trains it; the champion is a stage 1 that lets two types pass."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    house = bench(str(tmp_path / "store"), tiny_root, train=whole_run, items=all_items)
    first = bench(str(tmp_path / "store"), tiny_root, items=all_items)
    assert ask(house, first.changed(first.good, "middling", middling)).action == "promoted"
    for name, (change, condition) in WORSE.items():
        decision = ask(house, house.changed(house.good, name, change))
        assert decision.action == "refused", name
        assert f"{condition}/champion" in failed(decision), name
    better = ask(house, house.good)
    assert better.action == "promoted", better.reasons
    assert len(decisions(house)) == len(WORSE) + 2 == 12
    assert rollback(house.store).candidate.step == "stage1"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WORSE)[3:])
def test_the_other_degraded_models_are_refused_for_the_right_reason(house, middle, name):
    test_a_degraded_model_is_refused_for_the_right_reason(house, middle, name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_promotes_once_and_says_why_it_does_not(
    tiny_root, only_cluster, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in STEPS_OF_A_RUN:
        if (Path(tiny_root) / step).exists():
            shutil.copytree(Path(tiny_root) / step, tmp_path / "s" / step, copy_function=os.link)
    (tmp_path / "strict.toml").write_text(f'extends = "tiny"\ngate = "{tmp_path}/gate.toml"\n')
    gate = resources.files("schemas").joinpath("gates/default.toml").read_text()
    (tmp_path / "gate.toml").write_text(gate.replace("min_risky = 200", "min_risky = 9999"))

    def psavlm(*arguments: str) -> tuple[int, dict]:
        told = CliRunner().invoke(application(), [*arguments, "--root", "s", "--json"])
        return told.exit_code, json.loads(told.stdout.splitlines()[-1])

    code, line = psavlm("promote", "--preset", "strict.toml")
    assert (code, line["action"]) == (1, "refused")
    assert line["reasons"][0].startswith("too few items: 540 risky ones")
    code, line = psavlm("promote", "--dry-run")
    assert (code, line["action"], line["number"]) == (0, "promoted", None)
    assert psavlm("promote")[1]["number"] == 2
    code, line = psavlm("promote")
    assert (code, line["action"], line["number"]) == (0, "already_champion", 2)
    code, line = psavlm("registry")
    assert (len(line["versions"]), len(line["decisions"])) == (1, 2)
