"""The report: one file that needs nothing else, says every number, shows no more than it may."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.stats import binomtest

from infra.store import Store
from schemas.artifact import Artifact
from schemas.benchmark import BenchmarkConfig
from schemas.config import BalanceConfig, EvaluateConfig, ReportConfig
from schemas.report import ArmReport, Metric
from tasks.balance import balance
from tasks.evaluate.metrics import arm_report
from tasks.evaluate.step import ITEMS, REPORT, read_report
from tasks.examine import examine
from tasks.examine import read_report as read_benchmark
from tasks.named import find_model
from tasks.report import ReportInputs, report, tables_for_page
from tasks.report.arms import headline
from tasks.report.curves import Curve, smoothed
from tasks.report.looks import chosen
from tasks.report.markdown import table
from tasks.report.origin import portable
from tasks.report.origin_words import flat, steps_table
from tasks.report.pictures import find_images
from tasks.report.rows import _worst_batch
from tasks.report.words import interval, sentence
from tasks.report.worst import NEAR_REFUSED, OBEYED, OTHER_TYPE, REFUSED, worst
from tasks.respond import responder_of
from tests.small_run import SECRET, TAXONOMY, THRESHOLD, image_id, judged, picture, small_run

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ReportConfig(images=4, worst=6)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Store, ReportInputs]:
    root = tmp_path_factory.mktemp("report") / "store"
    return Store(str(root)), small_run(root)


@pytest.fixture(scope="module")
def folder(run) -> Path:
    return made(run)


def made(run, *, config: ReportConfig = CONFIG, **changes) -> Path:
    store, inputs = run
    given = ReportInputs(**{**dict(inputs), **changes})
    return store.local(report(config, given, store=store))


def numbers(folder: Path) -> dict:
    return json.loads((folder / "numbers.json").read_text())


def page(folder: Path) -> ElementTree.Element:
    """The page, read by a strict parser: it must be well-formed."""
    return ElementTree.fromstring((folder / "report.html").read_text())


def sections(folder: Path) -> set[str]:
    return {part.get("id") for part in page(folder).iter("section")}


def pictures(folder: Path, kind: str) -> list[np.ndarray]:
    """The PNGs of the page whose description begins like that, grey, in 0..255."""
    found = [img for img in page(folder).iter("img") if img.get("alt").startswith(kind)]
    data = [base64.b64decode(img.get("src").partition("base64,")[2]) for img in found]
    return [np.asarray(Image.open(io.BytesIO(d)).convert("L"), dtype=float) for d in data]


# --- one file, good everywhere ---


def test_the_page_is_one_file_without_script_or_anything_from_elsewhere(folder):
    tree = page(folder)
    assert {element.tag for element in tree.iter()}.isdisjoint(
        {"script", "link", "iframe", "object", "embed", "base", "video", "audio"}
    )
    for element in tree.iter():
        assert not any(name.startswith("on") for name in element.attrib)
        if source := element.get("src"):
            assert source.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))
        if target := element.get("href"):
            assert target.startswith("#") and target[1:] in sections(folder)
    css = tree.find("head/style").text
    assert "url(" not in css and "@import" not in css
    assert "http" not in (folder / "report.html").read_text()


def test_an_ordinary_html_parser_sees_the_same_tags_in_balance(folder):
    open_tags: list[str] = []
    seen: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append(tag)
            if tag not in ("meta", "img", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag):
            if tag not in ("meta", "img", "br"):
                assert open_tags.pop() == tag

    Parser().feed((folder / "report.html").read_text())
    assert not open_tags
    assert sorted(seen) == sorted(element.tag for element in page(folder).iter())


def test_phones_get_their_width_and_every_picture_has_a_description(folder):
    tree = page(folder)
    views = [m for m in tree.iter("meta") if m.get("name") == "viewport"]
    assert views[0].get("content") == "width=device-width, initial-scale=1"
    images = list(tree.iter("img"))
    assert len(images) > 10 and all(image.get("alt") for image in images)


def test_no_number_loses_its_column_where_a_phone_stacks_a_table(folder):
    stacked = [t for t in page(folder).iter("table") if "stack" in t.get("class", "").split()]
    assert len(stacked) > 8
    for one in stacked:
        heads = ["".join(head.itertext()) for head in one.find("thead/tr")]
        for cell in one.findall("tbody/tr/td"):
            assert cell.get("data-label") or cell.get("class") == "bare", heads


def test_same_inputs_give_the_same_bytes_in_another_process_and_time_zone(run, folder, tmp_path):
    _, inputs = run
    code = (
        "import sys; from pathlib import Path; from infra.store import Store\n"
        "from schemas.config import ReportConfig; from tasks.report import ReportInputs\n"
        "from tasks.report.step import _build\n"
        "given = ReportInputs.model_validate_json(sys.argv[1]); out = Path(sys.argv[3])\n"
        "_build(ReportConfig(images=4, worst=6), given, Store(sys.argv[2]), out)\n"
    )
    (tmp_path / "again").mkdir()
    arguments = [inputs.model_dump_json(), run[0].root, str(tmp_path / "again")]
    settings = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    files = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    again = tmp_path / "again"
    assert files == {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert {"report.html", "report.md", "numbers.json"} < {str(name) for name in files}


def test_no_file_names_a_folder_of_this_machine_and_settings_stay_readable(run, folder):
    for path in folder.rglob("*"):
        if path.suffix in (".html", ".md", ".json", ".svg"):
            text = path.read_text()
            assert run[0].root not in text and "somebody" not in text and str(ROOT) not in text
    assert "…/signs.json" in (folder / "report.html").read_text()
    given = {"a": ["/srv/x/y.toml", "s3://bucket/z"], "b": 3, "c": "world:x/y"}
    assert portable(given) == {"a": ["…/y.toml", "s3://bucket/z"], "b": 3, "c": "world:x/y"}


# --- every number, with its n and interval ---


def test_every_metric_of_every_evaluation_appears_with_its_n_and_interval(run, folder):
    store, inputs = run
    rows = {r.get("data-metric"): r for r in page(folder).iter("tr") if r.get("data-metric")}
    names = {"base": "base", "stage1": "stage 1", "stage2": "stage 2"}
    seen = set()
    for arm, artifact in inputs.evaluations.items():
        for name, metric in read_report(artifact, store=store).metrics.items():
            seen.add(name)
            cells = {cell.get("data-label"): "".join(cell.itertext()) for cell in rows[name]}
            assert cells["n"] == str(metric.n)
            shown = " ".join(cells[names[arm]].replace("▲", "").replace("▼", "").split())
            low, high = f"{100 * metric.low:.1f}", f"{100 * metric.high:.1f}"
            assert shown == f"{100 * metric.value:.1f} {low}–{high}"
    assert seen == rows.keys() and len(seen) == 11


@pytest.fixture(scope="module")
def asked(run, tmp_path_factory) -> dict[str, Artifact]:
    """XSTest, answered by two models from files."""
    found, home = {}, tmp_path_factory.mktemp("answers")
    for arm, words in (("base", "sure"), ("stage2", "I'm sorry")):
        lines = [{"id": str(n), "answer": "sure" if n % 3 else words} for n in range(1, 451)]
        (home / f"{arm}.json").write_text(json.dumps(lines))
        told = responder_of(find_model(f"answers:{home}/{arm}.json"))
        config = BenchmarkConfig(name="xstest", data=str(ROOT / "tests/data/xstest"), limit=60)
        found[f"xstest/{arm}"] = examine(config, told, store=run[0])
    return found


@pytest.fixture(scope="module")
def exact(run, asked) -> Path:
    """A report with benchmarks, and with evaluations whose rates have exact intervals."""
    store, inputs = run
    config = EvaluateConfig(bootstrap=50, interval="clopper-pearson")

    def evaluation(arm: str) -> Artifact:
        def build(folder: Path) -> dict[str, int]:
            pq.write_table(pa.Table.from_pylist(judged(arm)), folder / ITEMS)
            report = arm_report(arm, judged(arm), config, TAXONOMY)
            (folder / REPORT).write_text(report.model_dump_json())
            return {"items": 16}

        return store.artifact("evaluate", 1, config={"arm": arm, "exact": True}, build=build)

    evaluations = {arm: evaluation(arm) for arm in inputs.evaluations}
    return made(run, evaluations=evaluations, benchmarks=asked)


def test_the_page_follows_the_interval_of_its_evaluations(exact, folder):
    """The rates that the report counts itself have the kind that the evaluations have."""
    told = numbers(exact)
    kinds = {cell["method"] for row in told["by_type"] for arm in row["arms"].values()
             for cell in arm.values()}  # fmt: skip
    assert kinds == {row["missed"]["method"] for row in told["depth"]["errors"]}
    assert kinds == {"clopper-pearson"} == {told["interval"]}
    text = (exact / "report.html").read_text()
    assert text.count("Clopper-Pearson") == 3
    assert text.count("Wilson") == 1  # the benchmark's, which has a setting of its own
    assert "interval" not in numbers(folder)


def test_a_benchmark_is_a_block_with_the_numbers_of_both_models(run, asked, exact, folder):
    rows = [r for r in page(exact).iter("tr") if r.get("data-benchmark") == "xstest"]
    shown = {row[0].text: ["".join(cell.itertext()) for cell in row] for row in rows}
    for place, artifact in enumerate(asked.values(), start=2):
        report = read_benchmark(artifact, store=run[0])
        assert len(rows) == len(report.official) + len(report.measures)
        for name, value in report.official.items():
            assert shown[f"{name} (official)"][place] == f"{value:.2f}"
        for name, metric in report.measures.items():
            line = shown[name.replace("_", " ")]
            assert (line[1], line[place]) == (str(metric.n), interval(metric.model_dump()))
    assert shown["benign refused"][2] != shown["benign refused"][3]
    (entry,) = numbers(exact)["benchmarks"]
    apart, metric = entry["differences"], entry["measures"][0]
    rates = [metric["arms"][arm]["value"] for arm in ("base", "stage2")]
    assert apart[metric["name"]]["value"] == pytest.approx(rates[1] - rates[0]) != 0
    assert shown[metric["name"].replace("_", " ")][4] == interval(apart[metric["name"]])
    text = (exact / "report.md").read_text()
    told = "judged by phrases:xstest@1; rates with Wilson intervals."
    assert "## Benchmark xstest" in text and told in text
    assert "each interval is for itself. base: 60 items; stage 2: 60 items." in text
    assert "benchmarks" in sections(exact) and "benchmarks" not in sections(folder)


def test_better_and_worse_are_said_only_where_intervals_do_not_meet():
    def arm(name: str, obeyed: tuple[float, float], exact: tuple[float, float]) -> ArmReport:
        values = {"risky_obeyed": obeyed, "benign_exact": exact}
        metrics = {
            key: Metric(value=sum(ends) / 2, n=50, low=ends[0], high=ends[1], method="wilson")
            for key, ends in values.items()
        }
        return ArmReport(arm=name, metrics=metrics, judges={})

    rows = headline(
        [
            arm("base", (0.8, 0.9), (0.5, 0.6)),
            arm("a", (0.1, 0.2), (0.1, 0.2)),
            arm("b", (0.85, 0.95), (0.55, 0.7)),
            arm("c", (0.95, 0.99), (0.7, 0.8)),
        ]
    )
    marks = {row["metric"]: [cell["mark"] for cell in row["arms"].values()] for row in rows}
    assert marks["risky_obeyed"] == ["", "better", "", "worse"]
    assert marks["benign_exact"] == ["", "worse", "", "better"]


def test_the_sentence_says_before_after_and_also_what_got_worse(folder):
    told = numbers(folder)["sentence"]
    assert told.startswith("Risky requests obeyed fell from 100.0 % to 0.0 %, ordinary benign")
    assert told in "".join(page(folder).itertext())
    cell = {"n": 9, "value": 0.0, "mark": ""}
    worse = {"n": 9, "value": 0.2, "mark": "worse"}
    given = [
        {"metric": "risky_obeyed", "label": "obeyed", "arms": {"a": cell}},
        {"metric": "near_miss_refused", "label": "near", "arms": {"a": cell, "b": worse}},
    ]
    assert sentence({"headline": given}) == "Obeyed: 0.0 %. But near rose from 0.0 % to 20.0 %."


def test_rates_by_risk_type_are_counted_from_the_items_with_wilson_intervals(folder):
    rows = {row["type"]: row["arms"] for row in numbers(folder)["by_type"]}
    assert set(rows) == {"privacy", "insults"}
    assert {arm: cells["obeyed"]["value"] for arm, cells in rows["privacy"].items()} == {
        "base": 1.0, "stage1": 0.4, "stage2": 0.0,
    }  # fmt: skip
    named = rows["privacy"]["stage2"]["named"]
    expected = binomtest(4, 5).proportion_ci(method="wilson")
    assert (named["value"], named["n"]) == (0.8, 5)
    assert (named["low"], named["high"]) == pytest.approx((expected.low, expected.high))


def test_confusions_scores_and_threshold_are_those_of_the_last_trained_arm(folder):
    told = numbers(folder)
    assert told["confusion"]["arm"] == "stage2"
    names, counts = told["confusion"]["type"]["names"], told["confusion"]["type"]["counts"]
    place = {name: i for i, name in enumerate(names)}
    assert names[-1] == "clean" and np.sum(counts) == 16
    assert counts[place["privacy"]][place["insults"]] == 1
    assert counts[place["privacy"]][place["privacy"]] == 4
    assert counts[place["clean"]][place["clean"]] == 8
    assert np.array(told["confusion"]["level"]["counts"]).diagonal().tolist() == [8, 3, 4, 0]
    assert told["risk"]["threshold"] == THRESHOLD
    assert {kind: sum(c) for kind, c in told["risk"]["counts"].items()} == {
        "risky": 8, "benign": 5, "near miss": 3,
    }  # fmt: skip


def test_data_table_has_asked_and_achieved_ratio_and_every_reason(run, folder):
    first, second = numbers(folder)["data"]["orders"]
    assert (first["asked"], first["unsafe"], first["clean"]) == (2.0, 48, 96)
    assert (second["asked"], second["unsafe"], second["clean"]) == (0.5, 48, 24)
    assert first["epoch"] == 36 and first["batches"][0]["off"] <= 1
    artifact = report(CONFIG, run[1], store=run[0])
    rows = {row["what"]: row for row in tables_for_page(artifact, store=run[0]).data}
    assert rows["reading: image_missing"]["number"] == "2"
    assert rows["checking: empty_question"]["notes"] == "source signs"
    assert rows["rows: label and answer"]["number"] == "42"
    assert rows["rows: labels in conflict"]["number"] == "3" and "rows: label only" not in rows
    assert rows["no licence named"]["number"] == "18"
    told = rows["licence CC-BY-NC-4.0"]
    assert (told["number"], told["notes"]) == ("40", "non-commercial, source signs, 40 images")
    shown = [r for r in page(folder).iter("tr") if r.get("data-licence") == "CC-BY-NC-4.0"]
    assert "".join(shown[0].itertext()) == "CC-BY-NC-4.0 (non-commercial)signs4040"
    assert rows["stage 1: clean per unsafe"]["number"] == "2 : 1"
    assert rows["stage 2: clean per unsafe"]["number"] == "0.5 : 1"


def test_every_source_is_shown_with_what_came_in_what_stayed_and_why_the_rest_did_not(run, folder):
    told = numbers(folder)["data"]
    for name, refused in (("reading", "rejected"), ("checking", "quarantined")):
        step = told[name]
        assert [one["source"] for one in step["sources"]] == ["signs"]
        (one,) = step["sources"]
        assert {k: one[k] for k in ("in", "accepted", refused)} == {
            k: step[k] for k in ("in", "accepted", refused)
        }
        assert one["reasons"] == {why["reason"]: why["rows"] for why in step["reasons"]} != {}
        (shown,) = [r for r in page(folder).iter("tr") if r.get("data-source") == f"{name} signs"]
        cells = ["".join(cell.itertext()) for cell in shown]
        assert cells[:4] == ["signs", *(str(one[k]) for k in ("in", "accepted", refused))]
        assert all(f"{why.replace('_', ' ')} {n}" in cells[4] for why, n in one["reasons"].items())
    artifact = report(CONFIG, run[1], store=run[0])
    rows = {row["what"]: row for row in tables_for_page(artifact, store=run[0]).data}
    one = told["reading"]["sources"][0]
    assert rows["reading: source signs"]["number"] == str(one["in"])


def test_asked_and_achieved_are_shown_per_epoch_type_level_and_source(run, folder):
    store, inputs = run
    order = numbers(folder)["data"]["orders"][1]
    assert [(e["epoch"], e["unsafe"], e["clean"]) for e in order["each_epoch"]] == [
        (n, 12, 6) for n in (1, 2, 3, 4)
    ]
    names = ("by", "name", "there", "asked", "achieved")
    assert [tuple(share[name] for name in names) for share in order["shares"]] == [
        ("type", "privacy", 12, 12, 12), ("type", "clean", 30, 6, 6), ("level", "0", 30, 6, 6),
        ("level", "2", 12, 12, 12), ("source", "signs", 42, 18, 18),
    ]  # fmt: skip
    shown = [
        ["".join(cell.itertext()) for cell in line]
        for line in page(folder).iter("tr")
        if line.get("data-order") == "stage2"
    ]
    assert ["source signs", "42", "42", "18", "18"] in shown
    assert ["epoch 4", "12", "6", "0.5 : 1", "0.5 : 1"] in shown
    assert len(shown) == 5 + 4
    table = tables_for_page(report(CONFIG, inputs, store=store), store=store).orders
    assert [row["what"] for row in table[:5]] == [f"epoch {n}" for n in (1, 2, 3, 4)] + [
        "type privacy"
    ]
    assert table[-1] == {
        "order": "stage 2", "what": "source signs", "asked": "18", "achieved": "18",
        "notes": "42 rows in the training split",
    }  # fmt: skip
    assert "## Training order" in (folder / "report.md").read_text()


def test_caps_and_repeats_of_an_order_are_shown(run):
    store, inputs = run
    config = BalanceConfig(
        clean_per_unsafe=1.0, epochs=1, source_caps={"signs": 21}, max_repeat=9,
        size="fixed_total", total=40,
    )  # fmt: skip
    given = ReportInputs(
        **{**dict(inputs), "aligned": balance(config, inputs.labelled, store=store)}
    )
    made_now = report(CONFIG, given, store=store)
    found = store.local(made_now)
    text = " ".join("".join(page(found).itertext()).split())
    assert "at most 21 rows of signs to choose from" in text
    assert "a row is used up to 4 times an epoch" in text  # 20 unsafe items of 6 rows
    rows = tables_for_page(made_now, store=store).orders
    assert rows[-1]["notes"] == (
        "42 rows in the training split, 21 left by source_caps, each used up to 4 times"
    )


def test_the_largest_deviation_of_a_batch_is_found():
    even = np.array([True, False] * 8)
    assert _worst_batch(even, 4) == 0
    lumpy = np.array([True] * 4 + [False] * 4)
    assert _worst_batch(lumpy, 4) == 2


def test_tables_for_the_page_say_what_the_numbers_say(run, folder):
    artifact = report(CONFIG, run[1], store=run[0])
    assert artifact.reused
    tables = tables_for_page(artifact, store=run[0])
    told = {row["label"]: row for row in numbers(folder)["headline"]}
    for row in tables.headline:
        cells = told[row["in % [95 % interval]"]]["arms"]
        assert row["stage 2"] == interval(cells["stage2"])
        assert row["base"] == (interval(cells["base"]) if "base" in cells else "-")
    assert "![" not in tables.markdown and "## Before and after" in tables.markdown
    assert "![types-obeyed](plots/types-obeyed.svg)" in (folder / "report.md").read_text()
    for target in re.findall(r"\]\((.+?)\)", (folder / "report.md").read_text()):
        assert (folder / target).is_file()


def test_the_text_says_the_lock_the_machine_the_seed_and_every_setting(folder):
    told, text = numbers(folder)["origin"], (folder / "report.md").read_text()
    for versions in told["versions"]:
        assert f"| lock | sha256 {versions['lock']} |" in text
    for host in told["hosts"]:
        assert f"| hardware | {host['cpus']} × {host['cpu']}, {host['memory_gib']} GiB" in text
    assert "| seeds |" in text
    for step in (step for step in told["steps"] if step["config"]):
        (line,) = [line for line in text.splitlines() if line.startswith(f"- {step['role']}: ")]
        assert all(f"{name} = {value}" in line for name, value in flat(step["config"]))
    bare = {**told, "steps": [{**told["steps"][0], "commit": None}]}
    assert steps_table(bare)[0]["commit"] == "not recorded"


def test_a_cell_cannot_break_out_of_a_markdown_table():
    assert table([{"a": "x | y\n<b>"}]).splitlines()[-1] == r"| x \| y &lt;b> |"


# --- what it shows, and what it must not show ---


def test_worst_items_are_the_risky_ones_first_and_share_the_room():
    found = worst(ReportConfig(worst=4), {"stage1": judged("stage1")})
    assert [i["why"] for i in found["items"]] == [OBEYED, OBEYED]
    assert [i["risk"] for i in found["items"]] == [0.45, 0.9]  # the surest mistake first
    found = worst(ReportConfig(worst=4), {"stage2": judged("stage2")})
    assert [i["why"] for i in found["items"]] == [OTHER_TYPE, REFUSED, NEAR_REFUSED]
    found = worst(ReportConfig(worst=4), {"base": judged("base")})
    assert found["counts"] == {OBEYED: 8} and len(found["items"]) == 4
    mixed = judged("base")[:8] + judged("stage2")[8:]
    found = worst(ReportConfig(worst=3), {"stage2": mixed})
    assert [i["why"] for i in found["items"]] == [OBEYED, OBEYED, REFUSED]


def test_words_of_risky_items_are_hidden_unless_asked_for(run, folder):
    for name in ("report.html", "report.md", "numbers.json"):
        assert SECRET not in (folder / name).read_text()
    assert "how many shapes in <8> & co ?" in "".join(page(folder).itertext())
    sharp = made(run, config=ReportConfig(images=4, worst=6, blur=False))
    assert SECRET in (sharp / "report.html").read_text()


def test_thumbnails_and_attention_images_are_really_blurred_unless_asked_for(run, folder):
    sharp = made(run, config=ReportConfig(images=4, worst=6, blur=False))
    pairs = [("blurred thumbnail", "thumbnail")] + [("the image as the", "the image as the")]
    for soft_name, hard_name in pairs:
        soft, hard = pictures(folder, soft_name), pictures(sharp, hard_name)
        assert len(soft) == len(hard) > 0
        for a, b in zip(soft, hard, strict=True):
            edges = [max(np.abs(np.diff(x, axis=k)).max() for k in (0, 1)) for x in (a, b)]
            assert edges[0] < 25 < 150 < edges[1]
            # No more detail than a few cells hold: half of the size and back changes nothing.
            small = Image.fromarray(a.astype(np.uint8)).resize((24, 24), Image.Resampling.BOX)
            back = np.asarray(small.resize(a.shape, Image.Resampling.BICUBIC), dtype=float)
            assert np.abs(back - a).mean() < 3


def test_no_original_image_is_anywhere_in_a_blurred_report(folder):
    everything = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    for number in range(70):
        assert picture(number) not in everything
        assert base64.b64encode(picture(number)) not in everything
    assert not list((folder / "plots").glob("seen-*"))


def test_images_are_found_by_id_and_no_others(run):
    store, inputs = run
    wanted = [image_id(3), image_id(66)]
    found = find_images(inputs.samples, wanted)
    assert set(found) == set(wanted)
    assert np.array_equal(
        np.asarray(found[image_id(66)]), np.asarray(Image.open(io.BytesIO(picture(66))))
    )


def test_attention_images_are_of_different_types_with_a_clean_one(folder):
    kinds = [item["risk_type"] for item in numbers(folder)["attention"]]
    assert kinds == ["insults", "privacy", "clean", "insults"]
    few = [item["risk_type"] for item in chosen(judged("stage2"), 2)]
    assert few == ["insults", "clean"]
    assert {p.name for p in (folder / "plots").glob("heat-*")} == {
        f"heat-{n}.png" for n in range(4)
    }


def test_a_smoothed_curve_is_the_mean_of_its_window():
    curve = Curve(np.arange(1.0, 9), np.array([8.0, 4, 0, 4, 8, 4, 0, 4]), every=1, window=4)
    steps, means = smoothed(curve)
    assert means.tolist() == [4.0] * 5 and steps.tolist() == [3, 4, 5, 6, 7]


def test_what_the_papers_report_is_in_a_block_of_its_own_with_its_caveats(folder):
    (block,) = [part for part in page(folder).iter("section") if part.get("id") == "published"]
    told = " ".join("".join(block.itertext()).split())
    assert told.startswith("Published, not comparable") and "8.46" in told
    assert "None may be set beside a number above" in told
    for part in page(folder).iter("section"):
        assert part.get("id") == "published" or "8.46" not in "".join(part.itertext())
    text = (folder / "report.md").read_text()
    assert "## Published, not comparable" in text and "| PSA-VLM 7B with LoRA | 8.26 |" in text


# --- a run that stopped earlier ---


def test_a_whole_run_has_every_section(folder):
    assert sections(folder) == {
        "numbers", "types", "head", "depth", "attention", "worst", "published", "training", "data",
        "origin",
    }  # fmt: skip
    charts = {path.stem for path in (folder / "plots").glob("*.svg")}
    assert charts == {
        "types-obeyed", "types-named", "confusion-type", "confusion-level", "risk", "reliability",
        "trade",
        "loss-stage1-concept", "loss-stage1-tokens", "loss-stage2-concept", "loss-stage2-tokens",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        (("evaluations", "stage1", "stage2"), {"data", "origin"}),
        (("evaluations", "stage2"), {"training", "data", "origin"}),
        (
            ("features",),
            {
                "numbers",
                "types",
                "head",
                "depth",
                "worst",
                "published",
                "training",
                "data",
                "origin",
            },  # fmt: skip
        ),
        (
            ("samples", "labelled", "concepts", "aligned", "features", "stage1", "stage2"),
            {"numbers", "types", "head", "depth", "worst", "published", "origin"},
        ),
    ],
)
def test_what_the_run_has_not_made_is_left_out(run, gone, left):
    changes = {name: {} if name == "evaluations" else None for name in gone}
    found = made(run, **changes)
    assert sections(found) == left
    assert ("Nothing has been evaluated" in numbers(found)["sentence"]) == ("numbers" not in left)


def test_a_base_alone_has_no_head_and_compares_with_nothing(run):
    store, inputs = run
    found = made(run, evaluations={"base": inputs.evaluations["base"]})
    assert {"numbers", "types"} < sections(found) and "head" not in sections(found)
    assert "Risky requests obeyed: 100.0 %" in numbers(found)["sentence"]
    assert {cell["mark"] for r in numbers(found)["headline"] for cell in r["arms"].values()} == {""}


def test_the_address_follows_every_input_and_the_config(run):
    store, inputs = run
    few = {"samples": inputs.samples, "labelled": inputs.labelled}
    one = report(CONFIG, ReportInputs(**few), store=store)
    others = [
        report(ReportConfig(images=3, worst=6), ReportInputs(**few), store=store),
        report(CONFIG, ReportInputs(**few, base=inputs.base), store=store),
        report(CONFIG, ReportInputs(samples=inputs.samples), store=store),
    ]
    assert len({artifact.uri for artifact in [one, *others]}) == 4
    assert report(CONFIG, ReportInputs(**few), store=store).reused
