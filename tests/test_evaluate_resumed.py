"""An evaluation that is killed half-way: nothing is asked twice, and no answer differs."""

import os
from pathlib import Path

import pytest

from infra.answers import FOLDER
from infra.planning import PlanningStore
from infra.store import Store
from model.guard import GuardedVlm
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from schemas.sweep import PointsConfig
from tasks.evaluate import evaluate
from tasks.evaluate.asking import Answering
from tasks.evaluate.both import evaluate_both_ways
from tasks.evaluate.points import evaluate_points
from tasks.evaluate.step import ITEMS
from tasks.report import ReportInputs
from tests.small_run import small_run

CONFIG = EvaluateConfig(bootstrap=20, max_new_tokens=2, batch=3)
ITEMS_HELD_OUT = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Store, ReportInputs]:
    root = tmp_path_factory.mktemp("run") / "store"
    return Store(str(root)), small_run(root)


@pytest.fixture
def asked(monkeypatch, tmp_path) -> list[list[str]]:
    """The batches that a model was really asked, in a cache of the test's own."""
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    batches, answer = [], Answering.__call__

    def noted(self, batch):
        batches.append([one.sample_id for one in batch])
        return answer(self, batch)

    monkeypatch.setattr(Answering, "__call__", noted)
    return batches


def evaluated(run, arm: str, *, store: Store | None = None, **changes) -> Artifact:
    own, made = run
    config = CONFIG.model_copy(update=changes)
    seen = (made.base, made.labelled, made.features)
    return evaluate(config, arm, *seen, store=store or own, model=made.stage2)


def kept() -> list[Path]:
    return [*Path(os.environ["PSAVLM_CACHE"], FOLDER).glob("*")]


def test_a_killed_evaluation_goes_on_where_it_was(run, asked, monkeypatch):
    calm = evaluated(run, "calm")
    whole = [*asked]
    assert sum(map(len, whole)) == ITEMS_HELD_OUT and not kept()
    noted = Answering.__call__

    def until_the_third(self, batch):
        if len(asked) == len(whole) + 2:
            raise KeyboardInterrupt
        return noted(self, batch)

    monkeypatch.setattr(Answering, "__call__", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluated(run, "killed")
    monkeypatch.setattr(Answering, "__call__", noted)
    assert len(kept()) == 1
    planned = evaluated(run, "killed", store=PlanningStore(run[0].root))
    assert not planned.counts and len(kept()) == 1  # a plan only looks
    again = evaluated(run, "killed")
    assert asked[len(whole) :] == whole and not kept()
    both = [(run[0].local(one) / ITEMS).read_bytes() for one in (calm, again)]
    assert both[0] == both[1]


@pytest.mark.parametrize("step", ["both ways", "points"])
def test_both_ways_and_operating_points_go_on_where_they_were(step, run, tmp_path, monkeypatch):
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    own, made = run
    config = CONFIG.model_copy(update={"max_new_tokens": 3})
    asked, answer = [], GuardedVlm.answer_features
    dies_at = 3

    def mortal(self, features, texts, **how):
        if len(asked) == dies_at:
            raise KeyboardInterrupt
        asked.append(len(texts))
        return answer(self, features, texts, **how)

    def written(draws: int) -> bytes:
        seen = (made.base, made.labelled, made.features, made.stage2)
        run_by = config.model_copy(update={"bootstrap": draws})
        if step == "both ways":
            found = evaluate_both_ways(run_by, *seen, store=own)
        else:
            points = PointsConfig(evaluate=run_by, false_positive_rate=0.1)
            found = evaluate_points(points, *seen, store=own)
        return (own.local(found) / ITEMS).read_bytes()

    monkeypatch.setattr(GuardedVlm, "answer_features", mortal)
    with pytest.raises(KeyboardInterrupt):
        written(20)
    assert len(asked) == dies_at and len(kept()) == 1
    dies_at = 1_000
    killed = written(20)
    once = sum(asked)
    assert not kept()
    asked.clear()
    assert written(21) == killed and sum(asked) == once  # at one go, under another name


def test_other_settings_take_nothing_over(run, asked, monkeypatch):
    noted = Answering.__call__

    def fail_late(self, batch):
        found = noted(self, batch)
        if len(asked) % 3 == 0:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Answering, "__call__", fail_late)
    for changes in ({}, {"max_new_tokens": 3}, {"batch": 4}):
        before = len(asked)
        with pytest.raises(KeyboardInterrupt):
            evaluated(run, "settings", **changes)
        assert len(asked) == before + 3
    assert len(kept()) == 3


def test_how_many_processes_answer_is_no_part_of_the_fingerprint(run, asked):
    one = evaluated(run, "crew")
    many = evaluated(run, "crew", workers=4)
    assert many.fingerprint == one.fingerprint and many.reused
