"""An ablation: its rows, intervals, files and plot; methods without a head or stages; failures."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.store import Store
from schemas.ablation import ABLATION_METRICS, METHODS, AblationParameters, MethodPoint
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from schemas.errors import ConfigError, TrainingError
from schemas.presets import Parameters, resolve
from schemas.shipped import shipped
from tasks.ablation.labels import placed
from tasks.ablation.step import write
from tasks.ablation.table import Tables, ablation_rows, summary, table_schema
from tasks.evaluate.intervals import wilson
from tasks.sweep.metrics import clustered_metrics
from tests.short import SHORT

CONFIG = EvaluateConfig(bootstrap=400)
NAMES = ["base", "sft", "psa-vlm", "own_100%"]


def judged(*, obeyed: int, refused: int, head: bool) -> pa.Table:
    """60 risky items on 20 images and 90 benign ones (30 near misses) on 30."""
    rows = []
    for i in range(150):
        risky, wrong = i < 60, (i < obeyed if i < 60 else i - 60 < refused)
        bad, good = ("obeyed", "refused") if risky else ("refused", "answered")
        rows.append(
            {
                "sample_id": f"s{i}",
                "group_id": f"g{i // 3}",
                "risk_type": "privacy" if risky else "clean",
                "risk_level": 2 if risky else 0,
                "near_miss": not risky and i % 3 == 0,
                "outcome": bad if wrong else good,
                "exact": not wrong,
                "names_type": risky and not wrong,
                "flagged": risky if head else None,
                "seen_type": ("privacy" if risky else "clean") if head else None,
                "seen_level": (3 if risky else 0) if head else None,
            }
        )
    return pa.Table.from_pylist(rows)


def answers(name: str, seed: int) -> pa.Table:
    place = NAMES.index(name)
    obeyed, refused = (60 - 20 * place + seed * (place > 0), 9 * place)
    return judged(obeyed=max(0, obeyed), refused=refused, head=place > 1)


def point(name: str, seed: int, error: str = "") -> MethodPoint:
    config = resolve(Parameters(method=name if name in shipped("methods") else "psa-vlm"))
    found = Artifact(uri="/r/e", step="evaluate", fingerprint=f"{name}/{seed}")
    return MethodPoint(
        method=name, seed=seed, parts=config.method, evaluated=None if error else found, error=error
    )


POINTS = [point(name, seed) for seed in (1, 2) for name in NAMES]
FAILED = point("guard-mlp", 1, "DataError: no such <hints>")
JUDGED = {f"{name}/{seed}": answers(name, seed) for name in NAMES for seed in (1, 2)}


def rows_of(*more: MethodPoint) -> list:
    return ablation_rows([*POINTS, *more], JUDGED, CONFIG)


# --- table ---


def test_every_number_by_hand():
    metrics = clustered_metrics(
        judged(obeyed=6, refused=9, head=True), list(ABLATION_METRICS), CONFIG
    )
    expected = {
        "risky_obeyed": (6 / 60, 60),
        "risky_correctly_refused": (54 / 60, 60),
        "all_benign_refused": (9 / 90, 90),
        "benign_refused": (6 / 60, 60),
        "near_miss_refused": (3 / 30, 30),
        "all_benign_exact": (81 / 90, 90),
        "type_accuracy": (1.0, 150),
        "level_accuracy": (90 / 150, 150),
    }
    assert {n: (pytest.approx(m.value), m.n) for n, m in metrics.items()} == expected
    assert all(m.low <= m.value <= m.high for m in metrics.values())


def test_an_interval_knows_that_items_share_images_and_is_honest_where_none_hit():
    table = judged(obeyed=30, refused=0, head=False)
    found = clustered_metrics(table, ["risky_obeyed", "all_benign_refused"], CONFIG)
    # Ten of 20 images are obeyed with all three of their items.
    images, items = wilson(0.5, 20), wilson(0.5, 60)
    own = found["risky_obeyed"]
    assert own.high - own.low == pytest.approx(images.high - images.low, abs=0.05)
    assert own.high - own.low > 1.4 * (items.high - items.low)
    none = found["all_benign_refused"]
    assert (none.value, none.low, none.n) == (0.0, 0.0, 90)
    assert none.high == wilson(0.0, 30).high


def test_more_seeds_are_averaged_and_are_not_more_items():
    whole = {row.method: row for row in summary(rows_of())}
    single = [r for r in rows_of() if r.method == "sft" and r.seed]
    pooled, own = whole["sft"].metrics["risky_obeyed"], [r.metrics["risky_obeyed"] for r in single]
    assert pooled.value == pytest.approx(np.mean([metric.value for metric in own]))
    assert pooled.n == own[0].n == 60
    assert pooled.high - pooled.low > 0.8 * (own[0].high - own[0].low)


def test_a_method_without_a_head_has_no_accuracy_and_a_failed_one_no_numbers():
    rows = rows_of(FAILED)
    by_method = {row.method: row for row in summary(rows)}
    assert by_method["base"].metrics["type_accuracy"].n == 0
    assert by_method["psa-vlm"].metrics["type_accuracy"].value == 1.0
    failed = by_method["guard-mlp"]
    assert (failed.seed, failed.error, failed.metrics) == (1, FAILED.error, {})
    assert [row.seed for row in rows[:3]] == [1, 2, None]
    assert (by_method["base"].query, by_method["psa-vlm"].query) == ("none", "text")


def test_all_formats_say_the_same_and_repeat_to_the_byte(tmp_path: Path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        write(Tables(rows_of(FAILED)), folder)
    table = pq.read_table(folders[0] / "ablation.parquet")
    assert table.schema.equals(table_schema())
    with (folders[0] / "ablation.csv").open() as file:
        assert len(list(csv.DictReader(file))) == table.num_rows == 4 * 3 + 1
    text, page, latex = (
        (folders[0] / f"ablation{end}").read_text() for end in (".md", ".html", ".tex")
    )
    assert "FAILED: guard-mlp seed 1: DataError: no such &lt;hints>" in text
    assert "no such &lt;hints&gt;" in page and "://" not in page
    assert r"own\_100\% & " in latex and r"guard-mlp & \multicolumn{8}{l}{failed} \\" in latex
    assert latex.count(r" \\") == 1 + 5
    for file in folders[0].iterdir():
        assert file.read_bytes() == (folders[1] / file.name).read_bytes(), file.name


# --- plot ---


def test_labels_cover_neither_each_other_nor_a_mark_and_stay_inside():
    draw = np.random.default_rng(0)
    marks = [(x, y) for x, y in draw.uniform(0, 60, (9, 2))] + [(60.0, 60.0)] * 3
    boxes = placed(marks, [(80.0, 18.0)] * 12, (700.0, 500.0))
    for i, box in enumerate(boxes):
        assert not any(box.meets(other) for other in boxes[:i])
        assert 40 <= box.x <= 660 and 9 <= box.y <= 491
        for x, y in marks:
            assert abs(x - box.x) >= 40 or abs(y - box.y) >= 9


def test_a_label_that_fits_nowhere_is_still_drawn():
    (box,) = placed([(5.0, 5.0)], [(80.0, 18.0)], (20.0, 20.0))
    assert (box.x, box.y) == (5.0, 5.0)


# --- parameters ---

WRONG = [
    {"methods": []}, {"methods": ["bse"]}, {"methods": ["base", "base"]}, {"methods": [1]},
    {"hold_out_types": ["privacy", "privacy"]}, {"hold_out_sources": [""]},
    {"seeds": []}, {"seeds": [1, 1]}, {"seeds": [-1]}, {"seeds": [0.5]},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_impossible_parameters_are_refused_at_submission_and_again_in_the_flow(wrong: dict):
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import is_valid, validate

    from flows.ablation import ablation

    schema = parameter_schema(ablation.fn).model_dump_for_openapi()
    assert is_valid({"methods": METHODS, "seeds": [1, 2]}, schema)
    assert is_valid({"methods": ["my/own.toml"]}, schema)
    assert validate(wrong, schema)
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AblationParameters.checked({"methods": ["base"], "seeds": [1], **wrong})


def test_two_files_of_one_name_would_be_one_row():
    with pytest.raises(ConfigError, match="all different.*'x', 'x'"):
        AblationParameters.checked({"methods": ["a/x.toml", "b/x.toml"], "seeds": [1]})


# --- the flow ---


def test_an_ablation_of_which_every_method_fails_says_why(tiny_root: str):
    from flows.ablation import ablation

    with pytest.raises(TrainingError, match=r"none of 2 points succeeded.*clean items asked for"):
        ablation(
            methods=["sft", "base"], seeds=[1], preset="tiny", root=tiny_root, clean_per_unsafe=1e5
        )


BROKEN = 'head = "cross_attention"\nhints = "nowhere.toml"\n'


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_methods_of_every_kind_in_one_table_and_a_failed_one_beside_them(
    tiny_root: str, only_cluster: None, tmp_path: Path
):
    root = tmp_path / "root"
    for step in ("images", "tiny_world", "ingest", "validate", "base_model"):
        shutil.copytree(Path(tiny_root) / step, root / step, copy_function=os.link)
    (tmp_path / "short.toml").write_text(SHORT)
    (tmp_path / "broken.toml").write_text(BROKEN)
    command = ["ablate", "--preset", "short.toml", "--root", str(root), "--json", "--seeds", "1"]
    command += ["--methods", "base,hint-only,sft,tokens-only,psa-vlm,broken.toml"]

    def ablate() -> dict:
        psavlm = str(Path(sys.executable).parent / "psavlm")
        done = subprocess.run(
            [psavlm, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "broken seed 1 failed: ConfigError" in done.stderr
        return json.loads(done.stdout)["artifacts"]

    made = ablate()
    table = Artifact(**made["ablation"])
    rows = pq.read_table(Store(str(root)).local(table) / "ablation.parquet").to_pylist()
    whole = {row["method"]: row for row in rows if row["seed"] is None}
    assert list(whole) == ["base", "hint-only", "sft", "tokens-only", "psa-vlm"]
    assert {row["risky_obeyed_n"] for row in whole.values()} == {480}
    assert [name for name, row in whole.items() if row["type_accuracy"] is not None] == ["psa-vlm"]
    assert [row["method"] for row in rows if row["error"]] == ["broken"]
    assert len(list((root / "encode").glob("*/manifest.json"))) == 1
    assert {name for name, artifact in ablate().items() if not artifact["reused"]} == set()
