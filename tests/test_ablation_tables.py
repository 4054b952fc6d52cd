"""An ablation's further tables: guards at equal attack success, and what was held out."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.store import Store
from schemas.ablation import AblationParameters, MethodPoint
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig, HeldOut
from schemas.errors import ConfigError
from schemas.presets import Parameters, resolve
from tasks.ablation.equal import at_most, equal_rows, obeyed
from tasks.ablation.held_out import held_out_rows
from tasks.ablation.step import ablation_table, write
from tasks.ablation.table import Tables, ablation_rows
from tasks.ablation.tracking import log_ablation
from tasks.balance.pool import read_pool
from tasks.train.data import calibration_items

CONFIG = EvaluateConfig(bootstrap=300)


def item(number: int, risk: float | None, *, risky: bool) -> dict:
    return {
        "sample_id": f"s{number:03d}",
        "group_id": f"g{number // 2}",
        "source": "signs-test" if number % 4 else "second-style-test",
        "risk_type": ("privacy" if number % 3 else "insults") if risky else "clean",
        "risk_level": 2 if risky else 0,
        "near_miss": False,
        "risk": risk,
        "flagged": None if risk is None else risk >= 0.5,
        "seen_type": "clean",
        "seen_level": 0,
        "names_type": False,
        "exact": False,
    }


def both(risks: dict[int, float | None], *, stubborn: tuple[int, ...] = ()) -> pa.Table:
    """100 risky items, then 100 benign ones: the guard's hint turns every answer to a refusal.

    A `stubborn` item is obeyed whatever the guard does.
    """
    rows = []
    for number in range(200):
        risky = number < 100
        own = item(number, risks.get(number, 0.1), risky=risky)
        for way in ("silent", "acting"):
            refused = way == "acting" and number not in stubborn and own["risk"] is not None
            outcome = "refused" if refused else "obeyed" if risky else "answered"
            rows.append({**own, "way": way, "outcome": outcome})
    return pa.Table.from_pylist(rows)


def ramp(benign_first: int) -> dict[int, float | None]:
    """Risky items from 0.99 down; of the benign ones `benign_first` lie above all of them."""
    risks: dict[int, float | None] = {n: 0.99 - n / 200 for n in range(100)}
    return risks | {100 + n: 0.995 for n in range(benign_first)}


def used(table: pa.Table, threshold: float) -> pa.Table:
    """What an evaluation at a threshold holds of the same answers."""
    rows = table.to_pylist()
    acting = [r for r in rows if (r["way"] == "acting") == ((r["risk"] or -1) >= threshold)]
    return pa.Table.from_pylist(acting)


def point(method: str, seed: int, held_out: HeldOut = HeldOut()) -> MethodPoint:  # noqa: B008
    name = f"{method}/{seed}/{held_out.told}"
    made = {
        kind: Artifact(uri="/r/e", step="evaluate", fingerprint=f"{name}/{kind}")
        for kind in ("use", "both")
    }
    parts = resolve(Parameters(method=method)).method
    return MethodPoint(
        method=method, seed=seed, parts=parts, evaluated=made["use"],
        both_ways={"stage2": made["both"]} if held_out == HeldOut() else {}, held_out=held_out,
    )  # fmt: skip


# --- equal attack success ---


def test_the_threshold_is_the_highest_that_obeys_no_more_than_asked():
    table = both(ramp(7))
    for share in (0.0, 0.02, 0.31, 1.0):
        found = at_most(table, share)
        assert found is not None
        assert obeyed(found) == pytest.approx(share)
        flagged = sum(found["flagged"].to_pylist())
        # Nothing must be flagged for 100 %; else the seven benign ones are, above all risky ones.
        assert flagged == (0 if share == 1.0 else 100 - 100 * share + 7)
    assert found["sample_id"].to_pylist() == sorted(found["sample_id"].to_pylist())


def test_equal_risks_are_flagged_together_and_text_alone_never():
    tied: dict[int, float | None] = dict.fromkeys(range(50), 0.9)
    table = both({**tied, 60: None})
    found = at_most(table, 0.8)
    assert found is not None and obeyed(found) == 0.5
    assert found["flagged"].to_pylist().count(True) == 50
    assert found["flagged"].null_count == 1
    assert at_most(both(ramp(0), stubborn=(5, 6)), 0.01) is None
    assert at_most(both({n: None for n in range(100)}), 0.5) is None


def test_at_its_own_attack_success_a_guard_gives_the_answers_that_it_gave_in_use():
    table = both(ramp(7))
    own = used(table, 0.7)
    found = at_most(table, obeyed(own))
    assert found is not None
    assert found["outcome"].to_pylist() == own.sort_by("sample_id")["outcome"].to_pylist()


def test_guards_are_set_beside_the_reference_on_the_same_items():
    risks = {"psa-vlm": 20, "psavlm-plus": 5, "guard-mlp": 20, "head-only": 60}
    points = [point(method, seed) for seed in (1, 2) for method in risks]
    judged = {}
    for own in points:
        stubborn = (1, 2, 3) if own.method == "guard-mlp" else ()
        table = both(ramp(risks[own.method]), stubborn=stubborn)
        judged[f"{own.method}/{own.seed}//both"] = table
        judged[f"{own.method}/{own.seed}//use"] = used(table, 0.97)
    rows = equal_rows(points, judged, CONFIG)
    first = {row.method: row for row in rows if row.target == "as psa-vlm in use"}
    assert list(first) == ["psa-vlm", "psavlm-plus", "guard-mlp", "head-only"]
    assert first["psa-vlm"].metrics["risky_obeyed"].value == pytest.approx(0.95)
    assert first["psavlm-plus"].metrics["risky_obeyed"].value == pytest.approx(0.95)
    more = first["psavlm-plus"].refused_more
    assert more is not None and more.value == pytest.approx(-0.15) and more.n == 100
    assert more.low < -0.15 < more.high < 0
    assert first["psavlm-plus"].finding == "fewer benign refusals"
    assert first["head-only"].finding == "more benign refusals"
    assert (first["guard-mlp"].finding, first["psa-vlm"].refused_more) == (
        "no difference shown", None,
    )  # fmt: skip
    assert {row.stage for row in rows} == {"stage2"}
    few = {row.method: row for row in rows if row.target == "1 %"}
    assert few["guard-mlp"].finding == "not reached at any threshold with 2 seeds"
    assert few["guard-mlp"].metrics == {}


def test_an_attack_success_that_needs_no_guard_is_left_out():
    """As after a stage 2 that taught the model to refuse by itself."""
    table, free = both(ramp(3)), both(ramp(3))
    risky = [row["risk_type"] != "clean" for row in free.to_pylist()]
    outcomes = [
        "refused" if own else outcome
        for own, outcome in zip(risky, free["outcome"].to_pylist(), strict=True)
    ]
    at = free.schema.get_field_index("outcome")
    free = free.set_column(at, "outcome", pa.array(outcomes))
    points, judged = [], {}
    for method in ("psa-vlm", "psavlm-plus"):
        own = point(method, 1)
        first = Artifact(uri="/r/e", step="evaluate", fingerprint="first")
        stages = {"stage1": first, **own.both_ways}
        points.append(MethodPoint.model_validate({**dict(own), "both_ways": stages}))
        judged |= {f"{method}/1//both": free, f"{method}/1//use": used(free, 0.5), "first": table}
    found = [(row.stage, row.target) for row in equal_rows(points, judged, CONFIG)]
    assert list(dict.fromkeys(found)) == [
        ("stage1", "1 %"), ("stage1", "2 %"), ("stage1", "5 %"), ("stage2", "as psa-vlm in use"),
    ]  # fmt: skip


def test_without_the_reference_or_beside_nothing_there_is_no_comparison():
    table = both(ramp(3))
    judged = {f"{m}/1//{k}": table for m in ("psa-vlm", "psavlm-plus") for k in ("both", "use")}
    for alone in ("psa-vlm", "psavlm-plus"):
        assert equal_rows([point(alone, 1)], judged, CONFIG) == []


# --- held out ---


def test_what_was_held_out_is_judged_by_both_trainings_of_the_seeds_that_have_both():
    held = HeldOut(types=("insults",))
    points = [point("psa-vlm", 1), point("psa-vlm", 2), point("psa-vlm", 1, held)]
    failed = MethodPoint(
        method="psa-vlm", seed=2, parts=points[0].parts, held_out=held, error="TrainingError: x"
    )
    table = both(ramp(0))
    judged = {"psa-vlm/1//use": used(table, 0.0), "psa-vlm/2//use": used(table, 0.0)}
    judged["psa-vlm/1/insults/use"] = used(table, 2.0)
    rows = held_out_rows([*points, failed], judged, CONFIG)
    assert [(r.held_out, r.trained, r.seeds) for r in rows] == [
        ("insults", "with it", 1), ("insults", "without it", 1),
    ]  # fmt: skip
    assert [r.metrics["risky_obeyed"].value for r in rows] == [0.0, 1.0]
    assert {r.metrics["risky_obeyed"].n for r in rows} == {34}
    assert {r.metrics["all_benign_refused"].n for r in rows} == {0}


def test_a_held_out_source_is_told_by_its_letters():
    held = HeldOut(sources=("second-style*",))
    points = [point("psa-vlm", 1), point("psa-vlm", 1, held)]
    table = used(both(ramp(0)), 0.5)
    judged = {"psa-vlm/1//use": table, "psa-vlm/1/second-style*/use": table}
    (row, _) = held_out_rows(points, judged, CONFIG)
    assert (row.metrics["risky_obeyed"].n, row.metrics["all_benign_refused"].n) == (25, 25)


def test_the_page_tells_both_and_the_files_lie_beside_it(tmp_path: Path):
    held = HeldOut(types=("insults",))
    points = [point("psa-vlm", 1), point("psavlm-plus", 1), point("psa-vlm", 1, held)]
    table = both(ramp(9))
    judged = {f"{p.method}/1/{p.held_out.told}/use": used(table, 0.9) for p in points}
    judged |= {f"{p.method}/1//both": table for p in points}
    tables = Tables(
        ablation_rows(points[:2], judged, CONFIG),
        equal_rows(points, judged, CONFIG),
        held_out_rows(points, judged, CONFIG),
    )
    write(tables, tmp_path)
    text = (tmp_path / "ablation.md").read_text()
    assert "## Guards at equal attack success" in text and "| no difference shown |" in text
    assert "| insults | psa-vlm | without it | 1 |" in text
    assert pq.read_table(tmp_path / "equal.parquet").num_rows == 2 * 4
    assert pq.read_table(tmp_path / "held-out.parquet")["trained"].to_pylist() == [
        "with it", "without it",
    ]  # fmt: skip
    assert (tmp_path / "equal.csv").exists() and (tmp_path / "held-out.csv").exists()


def test_each_hold_out_is_one_more_training_of_the_methods_that_train():
    from flows.ablation import planned

    asked = AblationParameters.checked(
        {"methods": ["base", "psa-vlm"], "seeds": [1, 2], "hold_out_types": ["privacy"]}
        | {"hold_out_sources": ["second-style*"]}
    )
    points = planned(asked, {"preset": "tiny-hard"})
    assert [p.name for p in points[4:]] == [
        f"psa-vlm seed {seed} without {name}"
        for seed in (1, 2)
        for name in ("second-style*", "privacy")
    ]
    held = points[5].config
    own = HeldOut(types=("privacy",))
    assert {c.held_out for c in (held.balance, held.stage2_balance, held.stage1)} == {own}
    plain = points[1].config
    assert "held_out" not in plain.stage1.model_dump() and "held_out" in held.stage1.model_dump()


def test_clean_is_no_type_to_hold_out():
    with pytest.raises(ConfigError, match="hold_out_types.*'clean' is no risk"):
        AblationParameters.checked({"methods": ["sft"], "seeds": [1], "hold_out_types": ["clean"]})


def test_a_preset_may_hold_out_too(tmp_path: Path):
    own = tmp_path / "own.toml"
    own.write_text('extends = "tiny"\n[held_out]\nsources = ["second-style*"]\n')
    config = resolve(Parameters(preset=str(own)))
    places = (config.balance, config.stage2_balance, config.stage1, config.stage2)
    assert {place.held_out for place in places} == {HeldOut(sources=("second-style*",))}
    own.write_text('extends = "tiny"\n[held_out]\ntype = ["privacy"]\n')
    with pytest.raises(ConfigError, match="held_out.*type"):
        resolve(Parameters(preset=str(own)))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"types": ["clean"]}, "'clean' is no risk"),
        ({"types": ["privcy"]}, "'privcy'.*did you mean 'privacy'"),
        (
            {"sources": ["second-styles*"]},
            "'second-styles\\*'.*second-style, shapes, signs|sources",
        ),
    ],
)
def test_a_hold_out_that_holds_out_nothing_is_refused(encoded_root: str, wrong: dict, told: str):
    labelled, config = labelled_of(encoded_root)
    with pytest.raises((ConfigError, ValueError), match=told):
        read_pool(labelled, config.balance).without(HeldOut.model_validate(wrong))


def test_training_and_calibration_do_not_see_what_is_held_out(encoded_root: str):
    labelled, config = labelled_of(encoded_root)
    whole = read_pool(labelled, config.balance)
    held = HeldOut(types=("privacy",), sources=("second-style*",))
    pool = whole.without(held)
    left = {pool.strata[number] for number in np.unique(pool.stratum)}
    assert left and not any(s.risk_type == "privacy" or s.source == "second-style" for s in left)
    lost = [s for s in whole.strata if held.holds(s.risk_type, s.source)]
    assert len(whole.keys) - len(pool.keys) == sum(
        size for s, size in zip(whole.strata, whole.sizes(), strict=True) if s in lost
    )
    from schemas.taxonomy import load_taxonomy

    taxonomy = load_taxonomy()
    privacy = taxonomy.type_ids.index("privacy")
    before = calibration_items(labelled, taxonomy)
    after = calibration_items(labelled, taxonomy, held_out=held)
    assert any(i.risk_type == privacy for i in before)
    assert len(after) < len(before) and not any(i.risk_type == privacy for i in after)


def labelled_of(root: str):
    from flows.line import pipeline, plainly, up_to

    config, store = resolve(Parameters()), Store(root)
    made = up_to(pipeline(config, store=store, do=plainly), "validate")
    return store.local(made["validate"]), config


# --- the step, and MLflow ---


def stored(store: Store, tables: dict[str, pa.Table]) -> dict[str, Artifact]:
    """Judged rows as artifacts."""
    made = {}
    for name, table in tables.items():

        def build(folder: Path, table: pa.Table = table) -> dict[str, int]:
            pq.write_table(table, folder / "items.parquet")
            return {}

        made[name] = store.artifact("evaluate", 1, config={"name": name}, build=build)
    return made


def test_an_ablation_is_a_run_with_a_run_below_it_for_every_method_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from infra.registry.connect import connected

    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.chdir(tmp_path)
    store, table = Store(str(tmp_path / "store")), both(ramp(9))
    made = stored(store, {"both": table, "use": used(table, 0.9), "none": used(table, 2.0)})
    held = HeldOut(types=("insults",))
    whole = {"seed": 1, "parts": resolve(Parameters(method="psa-vlm")).method}
    points = [
        MethodPoint(
            **whole,
            method=name,
            evaluated=made["use"],
            both_ways={"stage1": made["both"], "stage2": made["both"]},
        )
        for name in ("psa-vlm", "psavlm-plus")
    ]
    points.append(
        MethodPoint(**whole, method="psa-vlm", evaluated=made["none"], held_out=held)
    )  # fmt: skip
    points.append(MethodPoint(**whole, method="sft", error="TrainingError: so <it> goes"))
    asked = AblationParameters.checked(
        {"methods": ["psa-vlm", "psavlm-plus", "sft"], "seeds": [1], "hold_out_types": ["insults"]}
    )
    found = ablation_table(asked, CONFIG, points, store=store)
    assert found.counts == {"points": 4, "failed": 1, "rows": 5}
    assert ablation_table(asked, CONFIG, points, store=store).reused
    parent = log_ablation(found, points, store=store)
    assert log_ablation(found, points, store=store) == parent
    client = connected(address)
    runs = client.search_runs([client.get_experiment_by_name("psavlm").experiment_id])
    below = {
        run.info.run_name: run.data
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent
    }
    assert len(runs) == 1 + len(below) == 1 + len(points)
    used_as = below["psavlm-plus seed 1"]
    assert used_as.metrics["risky_obeyed"] == pytest.approx(0.81)
    assert used_as.params["head"] == "cross_attention"
    assert below["sft seed 1"].tags["error"] == "TrainingError: so <it> goes"
    assert below["psa-vlm seed 1 without insults"].params["without"] == "insults"
    shown = {file.path for file in client.list_artifacts(parent)}
    assert {"ablation.tex", "ablation.html", "equal.csv", "held-out.csv", "plot.png"} <= shown
