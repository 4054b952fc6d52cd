"""A ratio sweep: equal sizes, operating points, its table, its plot; points that fail."""

import csv
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from math import floor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.parts import write_parts
from infra.store import Store
from model.calibration import threshold_at
from schemas.artifact import Artifact
from schemas.config import BalanceConfig, EvaluateConfig, SourceConfig
from schemas.errors import ConfigError, DataError, TrainingError
from schemas.samples import ROWS
from schemas.sweep import POINTS, SWEEP_METRICS, StageResult, SweepParameters, SweepPoint
from tasks.balance import balance, common_total, largest_total, sides
from tasks.evaluate.intervals import clustered, clustered_mean, rate, wilson
from tasks.sweep.metrics import metrics_of
from tasks.sweep.pareto import best_point, pareto
from tasks.sweep.plot import places
from tasks.sweep.step import write
from tasks.sweep.table import flat, sweep_rows, table_schema
from tasks.sweep.tracking import log_sweep
from tests.short import SHORT

CONFIG = EvaluateConfig(bootstrap=200)
RATIOS, SEEDS = [0.3, 1.0, 3.0, 10.0], [1, 2]


# --- what a sweep is made of: judged answers of 60 risky and 90 benign items per point ---


def judged(point: str, *, obeyed: int, refused: int, flips: int = 0) -> list[dict]:
    """Rows in which `obeyed` of 60 risky and `refused` of 90 benign items (30 near misses)."""
    rows = []
    for i in range(150):
        risky = i < 60
        near = not risky and i % 3 == 0
        wrong = i < obeyed if risky else i - 60 < refused
        outcome = (
            ("obeyed" if wrong else "refused") if risky else "refused" if wrong else "answered"
        )
        rows.append(
            {
                "point": point,
                "sample_id": f"s{i}",
                "group_id": f"g{i // 2}",
                "risk_type": "privacy" if risky else "clean",
                "risk_level": 2 if risky else 0,
                "near_miss": near,
                "outcome": outcome,
                "exact": not wrong,
                "names_type": risky and not wrong,
                "flagged": risky != wrong,
                "seen_type": "privacy" if risky != (i < flips) else "clean",
                "seen_level": 2 if risky else 0,
            }
        )
    return rows


def artifact(step: str, name: str, **counts: int) -> Artifact:
    return Artifact(uri=f"/r/{step}/{name}", step=step, fingerprint=name, counts=counts)


def point(ratio: float, seed: int, *, total: int = 440) -> SweepPoint:
    unsafe, clean = sides(total, ratio)
    stages = {
        stage: StageResult(
            balanced=artifact("balance", f"{ratio}", unsafe=unsafe, clean=clean),
            model=artifact(stage, f"{ratio}/{seed}", steps=steps),
            evaluated=artifact("evaluate_points", f"{ratio}/{seed}/{stage}"),
        )
        for stage, steps in (("stage1", 380), ("stage2", 160))
    }
    return SweepPoint(ratio=ratio, seed=seed, stages=stages)


def answers(ratio: float, seed: int) -> tuple[pa.Table, dict[str, float]]:
    """More clean data: more is obeyed, less is refused; at the matched rate nearly flat."""
    place = RATIOS.index(ratio)
    raw = judged("uncalibrated", obeyed=6 * place + seed, refused=30 - 8 * place)
    matched = judged("matched", obeyed=8 - place + seed, refused=5)
    return pa.Table.from_pylist(raw + matched), {"uncalibrated": 0.5, "matched": 0.1 * place}


def whole(points: list[SweepPoint]) -> list:
    told = {
        result.evaluated.fingerprint: answers(p.ratio, p.seed)
        for p in points
        for result in p.stages.values()
    }
    return sweep_rows(points, told, CONFIG)


POINTS_MADE = [point(ratio, seed) for seed in SEEDS for ratio in RATIOS]
FAILED = SweepPoint(ratio=30.0, seed=1, error="DataError: 410 clean items asked for")
ASKED = SweepParameters(ratios=[*RATIOS, 30.0], seeds=SEEDS)


# --- one size for every ratio ---


@pytest.mark.parametrize(("unsafe", "clean"), [(13, 40), (40, 13), (1, 50), (7, 7)])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 1.0, 2.5, 10.0, 99.0])
def test_the_largest_total_is_what_trying_all_of_them_gives(unsafe, clean, ratio):
    def drawn(total: int) -> bool:
        risky = floor(total / (1 + ratio) + 0.5)
        return 0 < risky <= unsafe and total - risky <= clean

    expected = max((total for total in range(unsafe + clean + 1) if drawn(total)), default=0)
    assert largest_total(unsafe, clean, ratio) == expected


def labelled(store: Store, *, unsafe: int, clean: int, unanswered: int = 0) -> Artifact:
    """Training rows; the first `unanswered` unsafe ones only have a label."""

    def row(i: int) -> dict:
        risky = i < unsafe
        turns = [{"role": "user", "text": "what is it ?"}, {"role": "assistant", "text": "one ."}]
        return {
            "sample_id": f"{i:064x}", "image_ids": [f"i{i}"], "source": "s", "source_key": str(i),
            "split": "train", "messages": turns, "risk_type": "privacy" if risky else "clean",
            "risk_level": 2 if risky else 0, "supervises": "concept" if i < unanswered else "both",
            "language": "", "licence": "", "group_id": f"i{i}", "extra": "{}",
        }  # fmt: skip

    def build(folder: Path) -> dict[str, int]:
        rows = [row(i) for i in range(unsafe + clean)]
        write_parts(pa.Table.from_pylist(rows, schema=ROWS), folder / "rows")
        return {}

    config = {"unsafe": unsafe, "clean": clean, "unanswered": unanswered}
    return store.artifact("labelled", 1, config=config, build=build)


def orders(*ratios: float, **changes) -> list[BalanceConfig]:
    return [
        BalanceConfig(clean_per_unsafe=ratio, with_answers_only=answered, **changes)
        for ratio in ratios
        for answered in (False, True)
    ]


def test_the_common_total_is_drawn_by_every_ratio_and_stage_and_one_more_is_not(tmp_path):
    store = Store(str(tmp_path))
    rows = labelled(store, unsafe=90, clean=200, unanswered=30)
    total = common_total(orders(*RATIOS), rows, store=store)
    assert total == 78  # 60 unsafe rows with an answer, at 0.3
    for config in orders(*RATIOS, size="fixed_total", total=total):
        counts = balance(config, rows, store=store).counts
        assert counts["unsafe"] + counts["clean"] == total == counts["rows"]
    with pytest.raises(DataError, match="61 unsafe items asked for"):
        for config in orders(*RATIOS, size="fixed_total", total=total + 1):
            balance(config, rows, store=store)


def test_a_ratio_that_cannot_be_drawn_does_not_bind_the_others(tmp_path):
    store = Store(str(tmp_path))
    rows = labelled(store, unsafe=90, clean=20)
    assert common_total(orders(1.0, 1000.0), rows, store=store) == 41
    with pytest.raises(DataError, match="no ratio of .*1000.* can be drawn"):
        common_total(orders(1000.0), rows, store=store)


# --- operating points ---


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99, 1.0])
def test_the_matched_threshold_flags_the_share_that_it_says(share):
    draw = random.Random(3)
    risks = [draw.random() for _ in range(200)]
    flagged = sum(risk >= threshold_at(risks, share) for risk in risks)
    assert flagged == floor(share * 200)


def test_equal_risks_are_flagged_together_and_never_beyond_the_rate():
    assert threshold_at([0.1] * 9 + [0.9], 0.3) == pytest.approx(0.1)
    assert sum(r >= threshold_at([0.1] * 9 + [0.9], 0.3) for r in [0.1] * 9 + [0.9]) == 1
    assert threshold_at([], 0.05) == 0.0


@pytest.fixture(scope="module")
def operator(tiny_root: str, tmp_path_factory: pytest.TempPathFactory):
    """An untrained guard around the tiny base: its risks differ, its answers follow its hints."""
    import torch

    from flows.line import pipeline, plainly, up_to
    from infra.answers import AnswerCache
    from model.backbone import Backbone
    from model.checkpoint import BaseReference, save_model
    from model.psavlm import PsaVlm
    from schemas.config import Stage
    from schemas.hints import load_hints
    from schemas.presets import Parameters, resolve
    from schemas.taxonomy import load_taxonomy
    from tasks.base_model import FOLDER
    from tasks.evaluate.operate import Operator
    from tasks.evaluate.question import Question
    from tasks.evaluate.step import held_out_rows

    torch.set_num_threads(1)
    store, config, taxonomy = Store(tiny_root), resolve(Parameters()), load_taxonomy()
    made = up_to(pipeline(config, store=store, do=plainly), "encode")
    base = store.local(made["base"]) / FOLDER
    method, folder = config.stage1.method, tmp_path_factory.mktemp("model")
    model = PsaVlm.new(
        Backbone.load(str(base)), method, types=len(taxonomy.types), levels=len(taxonomy.levels)
    )
    save_model(
        folder, model, stage=Stage.CONCEPTS, method=method, taxonomy=taxonomy,
        hints=load_hints(method.hints, taxonomy=taxonomy), base=BaseReference(name="tiny"),
    )  # fmt: skip
    rows = held_out_rows(store.local(made["validate"]))[::20]
    items = [Question.of(row) for row in rows]
    items.append(Question("words", "what is it ?", None, ("clean", 0)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSAVLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        kept = AnswerCache({"test": "operator"})
    return Operator(base, folder, made["encode"], kept, batch=16), items


def test_answers_shared_between_operating_points_are_those_of_each_point_alone(operator):
    from model.guard import GuardedVlm
    from model.policy import GuardPolicy

    own, items = operator
    own.kept.clear()
    asked: list[int] = []
    write = own.guarded.model.write
    own.guarded.model.write = lambda *a, **k: asked.append(len(a[1])) or write(*a, **k)
    points = own.operate(items, rate=0.1, max_new_tokens=8, tick=lambda done, note: None)
    assert set(points) == set(POINTS)
    pairs = {(i, a.hint) for p in points.values() for i, a in enumerate(p.answers)}
    assert sum(asked) == len(pairs) < 2 * len(items)  # each pair of item and hint once
    with_image = [item for item in items if item.image_id]
    features = own.cache.batch([item.image_id for item in with_image])
    for point in points.values():
        guarded = GuardedVlm(
            own.guarded.model, taxonomy=own.guarded.taxonomy, hints=own.guarded.hints,
            policy=GuardPolicy(threshold=point.threshold),
        )  # fmt: skip
        alone = guarded.answer_features(
            [*features, None], [item.text for item in items], max_new_tokens=8
        )
        assert [a.text for a in alone] == [a.text for a in point.answers]
        assert [a.hint for a in alone] == [a.hint for a in point.answers]
    benign = [a for a, item in zip(points["matched"].answers, items, strict=True) if item.benign]
    flagged = [a.verdict.flagged for a in benign if a.verdict]
    assert sum(flagged) == floor(0.1 * len(flagged))


def test_both_ways_hold_the_answers_of_every_threshold(operator):
    from tasks.evaluate.operate import ACTING, SILENT

    own, items = operator
    own.kept.clear()
    ways = own.both_ways(items, max_new_tokens=8, tick=lambda done, note: None)
    own.kept.clear()
    points = own.operate(items, rate=0.1, max_new_tokens=8, tick=lambda done, note: None)
    risks = [a.verdict.risk if a.verdict else None for a in ways[ACTING]]
    assert len({risk for risk in risks if risk is not None}) > 20
    # Uncalibrated and matched differ from the card's policy by their threshold alone here.
    for point in points.values():
        acts = [risk is not None and risk >= point.threshold for risk in risks]
        chosen = [ways[ACTING if act else SILENT][i] for i, act in enumerate(acts)]
        assert [(a.text, a.hint) for a in chosen] == [(a.text, a.hint) for a in point.answers]
    assert [a.verdict is None for a in ways[SILENT]] == [a.verdict is None for a in ways[ACTING]]


# --- table ---


def test_pareto_points_are_those_that_no_other_beats():
    for costs in itertools.product([(0.1, 0.2), (0.2, 0.1), (0.2, 0.2), (0.1, 0.1)], repeat=3):
        for own, mark in zip(costs, pareto(costs), strict=True):
            better = [o for o in costs if o[0] <= own[0] and o[1] <= own[1] and o != own]
            assert mark == (not better)


def test_intervals_agree_with_those_of_the_evaluation():
    for hits in (0, 3, 10):
        flags = np.arange(10) < hits
        expected, found = rate(flags), wilson(hits / 10, 10)
        assert found.low == pytest.approx(expected.low, abs=1e-6)
        assert found.high == pytest.approx(expected.high, abs=1e-6)
    values, clusters = np.arange(60) % 3 == 0, np.arange(60) // 4
    slow = clustered(lambda i: float(values[i].mean()), clusters, draws=4000, seed=1)
    low, high = clustered_mean(values.astype(float), clusters, draws=4000, seed=2)
    assert (low, high) == pytest.approx((slow.low, slow.high), abs=0.02)


def test_every_number_by_hand():
    rows = judged("matched", obeyed=6, refused=9, flips=3)
    rows[0] |= {"outcome": "neither"}
    metrics = metrics_of(pa.Table.from_pylist(rows), CONFIG)
    assert list(metrics) == list(SWEEP_METRICS)
    expected = {
        "risky_obeyed": (5 / 60, 60),
        "risky_correctly_refused": (54 / 60, 60),
        "all_benign_refused": (9 / 90, 90),
        "benign_refused": (6 / 60, 60),
        "near_miss_refused": (3 / 30, 30),
        "all_benign_exact": (81 / 90, 90),
        "guard_false_positive": (9 / 90, 90),
        "guard_missed": (6 / 60, 60),
        "type_accuracy": (147 / 150, 150),
    }
    assert {n: (pytest.approx(m.value), m.n) for n, m in metrics.items()} == expected
    assert all(m.low <= m.value <= m.high for m in metrics.values())


def test_a_method_without_a_head_has_its_rates_and_nothing_of_a_guard():
    rows = judged("matched", obeyed=6, refused=9)
    nothing = {"flagged": None, "seen_type": None, "seen_level": None}
    metrics = metrics_of(pa.Table.from_pylist([row | nothing for row in rows]), CONFIG)
    assert metrics["risky_obeyed"].value == pytest.approx(6 / 60)
    seen = ("guard_false_positive", "guard_missed", "type_accuracy")
    assert [metrics[name].n for name in seen] == [0, 0, 0]


def test_seeds_are_averaged_and_do_not_count_as_more_items():
    rows = whole(POINTS_MADE)
    own = [r for r in rows if (r.stage, r.point, r.ratio) == ("stage1", "uncalibrated", 3.0)]
    assert [(r.seed, r.seeds) for r in own] == [(1, 1), (2, 1), (None, 2)]
    first, second, both = (r.metrics["risky_obeyed"] for r in own)
    assert both.value == pytest.approx((first.value + second.value) / 2)
    assert first.n == second.n == both.n == 60
    assert both.high - both.low > 0.9 * (first.high - first.low)
    assert own[2].threshold is None
    assert own[0].threshold == 0.5


def test_only_rows_over_all_seeds_are_marked_and_the_marks_hold_per_panel():
    rows = whole(POINTS_MADE)
    assert {row.pareto for row in rows if row.seed is not None} == {None}
    matched = [r for r in rows if r.seed is None and (r.stage, r.point) == ("stage1", "matched")]
    assert [(r.ratio, r.pareto) for r in matched] == [
        (0.3, False), (1.0, False), (3.0, False), (10.0, True)
    ]  # fmt: skip
    raw = [r for r in rows if r.seed is None and r.point == "uncalibrated"]
    assert all(row.pareto for row in raw)


def test_a_failed_point_is_a_row_with_its_reason_and_without_numbers(tmp_path):
    rows = whole([*POINTS_MADE, FAILED])
    (failed,) = [row for row in rows if row.error]
    assert (failed.ratio, failed.seed, failed.metrics) == (30.0, 1, {})
    line = flat(failed)
    assert {line[name] for name in SWEEP_METRICS} == {None}
    write(rows, ASKED, tmp_path)
    assert "FAILED: ratio 30 seed 1: DataError" in (tmp_path / "sweep.md").read_text()


def test_table_page_and_plots_of_a_sweep_say_the_same_and_repeat_to_the_byte(tmp_path):
    rows = whole([*POINTS_MADE, FAILED])
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        write(rows, ASKED, folder)
    table = pq.read_table(folders[0] / "sweep.parquet")
    assert table.schema.equals(table_schema())
    with (folders[0] / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == table.num_rows == len(rows) == 1 + 2 * 2 * 4 * 3
    assert [float(line["ratio"]) for line in lines] == table["ratio"].to_pylist()
    page = (folders[0] / "sweep.html").read_text()
    text = (folders[0] / "sweep.md").read_text()
    for told in (page, text):
        assert "440 an epoch" in told
        assert "Not comparable" in told
        assert "equally many steps (380 in stage 1, 160 in stage 2);" in told
        assert "1,668.6" in told or "1668.6" in told
        assert "set on the evaluated items" in told
    assert page.count("data:image/png;base64,") == 2
    assert "://" not in page  # nothing is loaded from elsewhere
    for file in folders[0].iterdir():
        assert file.read_bytes() == (folders[1] / file.name).read_bytes(), file.name


def test_ratio_zero_has_a_place_on_the_logarithmic_axis():
    at = places([0.0, 0.1, 1.0, 10.0])
    assert list(at.values()) == pytest.approx([-1.5, -1.0, 0.0, 1.0])
    assert places([0.0]) == {0.0: 0.0}


def test_the_proposed_model_is_the_best_pareto_point_where_guards_are_equally_strict():
    table = pa.Table.from_pylist([flat(r) for r in whole([*POINTS_MADE, FAILED])], table_schema())
    assert best_point(table) == (10.0, 1)  # seed 1 obeys one request less


def test_mlflow_holds_a_sweep_once_with_its_points_below_it(tmp_path, monkeypatch):
    from infra.registry.connect import connected

    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.chdir(tmp_path)
    store, points = Store(str(tmp_path / "store")), [*POINTS_MADE, FAILED]

    def build(folder: Path) -> dict[str, int]:
        write(whole(points), ASKED, folder)
        return {"points": len(points), "failed": 1}

    table = store.artifact("sweep", 1, config=ASKED, build=build)
    parent = log_sweep(table, points, store=store)
    assert log_sweep(table, points, store=store) == parent
    client = connected(address)
    runs = client.search_runs([client.get_experiment_by_name("psavlm").experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]
    assert len(runs) == 1 + len(children) == 1 + len(points)
    (failed,) = [run for run in children if run.data.tags["state"] == "failed"]
    assert (failed.data.params["clean_per_unsafe"], failed.data.metrics) == ("30.0", {})
    assert failed.data.tags["error"] == FAILED.error
    one = next(r for r in children if r.info.run_name == "ratio 3 seed 2")
    assert one.data.metrics["stage1/uncalibrated/risky_obeyed"] == pytest.approx(14 / 60)
    assert one.data.metrics["stage2/matched/threshold"] == pytest.approx(0.2)
    shown = {file.path for file in client.list_artifacts(parent)}
    assert {"plot.png", "sweep.csv", "sweep.html", "sweep.md", "sweep.parquet"} <= shown


# --- parameters ---

WRONG = [
    {"ratios": []},
    {"ratios": [-1]},
    {"ratios": [1, 1.0]},
    {"ratios": [float("inf")]},
    {"ratios": ["many"]},
    {"seeds": []},
    {"seeds": [1, 1]},
    {"seeds": [-1]},
    {"seeds": [0.5]},
    {"total": 0},
    {"false_positive_rate": 1.5},
]


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_impossible_parameters_are_refused_at_submission_and_again_in_the_flow(wrong):
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import is_valid, validate

    from flows.ratio_sweep import RATIOS as DEFAULT
    from flows.ratio_sweep import ratio_sweep

    schema = parameter_schema(ratio_sweep.fn).model_dump_for_openapi()
    assert is_valid({"ratios": DEFAULT, "seeds": [1, 2]}, schema)
    assert validate(wrong, schema)
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SweepParameters.checked({"ratios": [1], "seeds": [1], **wrong})


def test_an_address_that_is_no_cluster_is_refused_at_submission():
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import is_valid

    from flows.ratio_sweep import ratio_sweep

    schema = parameter_schema(ratio_sweep.fn).model_dump_for_openapi()
    assert is_valid({"cluster": "127.0.0.1:6379"}, schema)
    assert not is_valid({"cluster": "foo"}, schema)


def test_a_source_that_is_not_there_ends_a_sweep_before_any_work(tmp_path: Path):
    from flows.ratio_sweep import ratio_sweep

    source = SourceConfig(format="table", uri=str(tmp_path / "no.csv"))
    with pytest.raises(DataError, match=r"no\.csv' does not exist"):
        ratio_sweep.fn(sources=(source,), root=str(tmp_path / "root"))
    assert not (tmp_path / "root").exists()


def test_nan_is_no_ratio():
    with pytest.raises(ConfigError, match="ratios.0 = nan"):
        SweepParameters.checked({"ratios": [float("nan")], "seeds": [1]})


def test_the_command_refuses_what_is_no_number():
    from flows.cli.comparison import numbers

    assert numbers("ratios", "0.3,1, 3", float) == [0.3, 1.0, 3.0]
    with pytest.raises(ConfigError, match="ratios = '0.3;1'"):
        numbers("ratios", "0.3;1", float)


# --- the flow ---


def test_a_sweep_of_which_every_point_fails_says_why(tiny_root: str):
    from flows.ratio_sweep import ratio_sweep

    with pytest.raises(TrainingError, match=r"none of 2 points succeeded.*items asked for"):
        ratio_sweep(ratios=[0.3, 10.0], preset="tiny", root=tiny_root, total=100_000)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_encodes_once_survives_a_point_and_goes_on_where_it_stood(
    tiny_root: str, only_cluster: None, tmp_path: Path
):
    root = tmp_path / "root"
    for step in ("images", "tiny_world", "ingest", "validate", "base_model"):
        shutil.copytree(Path(tiny_root) / step, root / step, copy_function=os.link)
    (tmp_path / "short.toml").write_text(SHORT)

    def sweep() -> dict:
        # At 0.05 there would be 1429 unsafe items, and the tiny world has 1317.
        command = ["sweep", "--preset", "short.toml", "--root", str(root), "--json"]
        command += ["--ratios", "1,0.05,3", "--total", "1500"]
        psavlm = str(Path(sys.executable).parent / "psavlm")
        done = subprocess.run(
            [psavlm, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "ratio 0.05 seed 1 failed: DataError: 1429 unsafe items asked for" in done.stderr
        return json.loads(done.stdout)

    first = sweep()
    assert first["decision"] is None
    table = Store(str(root)).local(Artifact(**first["artifacts"]["sweep"])) / "sweep.parquet"
    rows = pq.read_table(table).to_pylist()
    assert [row["ratio"] for row in rows if row["error"]] == [0.05]
    assert len(rows) == 1 + 2 * 2 * 2 * 2
    made = {step: len(list((root / step).glob("*/manifest.json"))) for step in os.listdir(root)}
    assert {step: made[step] for step in ("encode", "stage1", "stage2", "evaluate_points")} == {
        "encode": 1, "stage1": 2, "stage2": 2, "evaluate_points": 4
    }  # fmt: skip
    (encoded,) = (root / "encode").glob("*/manifest.json")
    (attempt,) = {m for a in (root / "encode").iterdir() for m in a.glob("attempts/*")}
    assert attempt.name == json.loads(encoded.read_text())["attempt"]  # and no second attempt
    shutil.rmtree(root / "sweep")
    again = sweep()["artifacts"]
    assert {name for name, artifact in again.items() if not artifact["reused"]} == {"sweep"}
    same = {name: artifact["fingerprint"] for name, artifact in first["artifacts"].items()}
    assert {name: artifact["fingerprint"] for name, artifact in again.items()} == same
