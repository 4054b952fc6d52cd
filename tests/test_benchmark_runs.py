"""A model on a benchmark, from folder to report: here, behind an endpoint, or from a file."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

import infra.chat
from flows.cli.main import main
from flows.line import pipeline, plainly, up_to
from flows.parameters import check_inputs, configured
from infra.library import root_of
from infra.store import Store
from model.backbone import Backbone
from model.checkpoint import BaseReference, save_model
from model.guard import GuardPolicy, load_hints
from model.psavlm import PsaVlm
from schemas.artifact import Artifact
from schemas.benchmark import BenchmarkConfig, BenchmarkReport
from schemas.config import MethodConfig, Stage
from schemas.errors import ConfigError, DataError, ServerError
from schemas.samples import Message
from schemas.taxonomy import load_taxonomy
from tasks.benchmarks.data import Data
from tasks.benchmarks.item import Item
from tasks.benchmarks.registry import BENCHMARKS
from tasks.evaluate.arms import open_backbone, open_guarded
from tasks.examine import examine, export_results, read_report, read_rows
from tasks.examine.pictures import Shown, shown
from tasks.examine.rows import ROWS
from tasks.judges import UNSCORED
from tasks.respond import Responder, choose_responder
from tests.benchmark_folders import FOLDERS, ITEMS, lines, picture
from tests.endpoint_server import FILTERED_PROMPT, completion, served

TAXONOMY = load_taxonomy()
BARE = MethodConfig(
    projector="none", head="none", llm_tokens="none", intervention="off", stage2="none"
)
SECRET = "sk-test-0123456789"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmarks")
    for name, make in FOLDERS.items():
        make(root / name)
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("results") / "store"))


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(infra.chat, "LONGEST_WAIT_S", 0.01)
    return tmp_path


def once(responder: Responder) -> Responder:
    """The same model, opened once for all tests."""
    opened = responder.open()
    return replace(responder, open=lambda: opened)


@pytest.fixture(scope="module")
def base(tiny_root: str) -> Responder:
    return once(choose_responder("base", store=Store(tiny_root), preset="tiny"))


def run(
    name: str, responder: Responder, folders: Path, store: Store, **changes
) -> tuple[Artifact, BenchmarkReport]:
    told = {"name": name, "data": str(folders / name), "max_new_tokens": 8, **changes}
    artifact = examine(BenchmarkConfig(**told), responder, store=store)
    return artifact, read_report(artifact, store=store)


def given(path: Path, answers: dict[str, str]) -> Responder:
    path.write_text("".join(json.dumps({"id": i, "answer": a}) + "\n" for i, a in answers.items()))
    return choose_responder(f"answers:{path}", store=Store(str(path.parent)), preset="tiny")


# --- a model here ---


JUDGED_HERE = [name for name, one in BENCHMARKS.items() if one.decide or one.phrases]


@pytest.mark.parametrize("name", JUDGED_HERE)
def test_the_tiny_base_passes_through_every_benchmark(name, base, folders, store, tmp_path):
    artifact, report = run(name, base, folders, store)
    rows = read_rows(artifact, store=store)
    assert (report.items, report.unanswered, report.unscored) == (ITEMS[name], 0, 0)
    assert artifact.counts["items"] == len(rows) == ITEMS[name]
    assert {row["judge"] for row in rows} == {report.judge}
    assert all(row["answer"] and row["verdict"] for row in rows)
    graded = BENCHMARKS[name].rubric == "risk"
    assert bool(report.official) != graded  # grades take a judging model
    assert report.measures and all(
        m.n and m.low <= m.value <= m.high for m in report.measures.values()
    )
    again, _ = run(name, base, folders, store)
    assert again.reused and again.uri == artifact.uri
    export_results(artifact, tmp_path / "out", store=store)
    logs = json.loads((tmp_path / "out" / "lmms-eval" / f"{name}.json").read_text())["logs"]
    assert [log["resps"] for log in logs] == [[[row["answer"]]] for row in rows]
    assert [log["doc_id"] for log in logs] == list(range(ITEMS[name]))
    (table,) = (tmp_path / "out" / "vlmevalkit").iterdir()
    assert len(table.read_text().splitlines()) >= ITEMS[name] + 1


def test_the_same_weights_as_a_folder_answer_alike(base, folders, store, tiny_root):
    weights = Store(tiny_root).local(base.parents["base"]) / "model"
    told = once(choose_responder(str(weights), store=store, preset="tiny"))
    assert told.parents == {} and told.identity != base.identity
    _, report = run("pope", told, folders, store)
    _, expected = run("pope", base, folders, store)
    assert report.official == expected.official


@pytest.fixture(scope="module")
def guarded(tiny_root: str, base: Responder, store: Store) -> Artifact:
    """An untrained guard that flags every image, over the tiny base; in a store of this module."""
    weights = Store(tiny_root).local(base.parents["base"]) / "model"
    method = MethodConfig(tokens=4, attention_heads=4, lora_rank=4)

    def copy(folder: Path) -> dict[str, int]:
        shutil.copytree(weights, folder / "model")
        return {}

    def build(folder: Path) -> dict[str, int]:
        save_model(
            folder / "model",
            PsaVlm.new(
                Backbone.load(str(weights)),
                method,
                types=len(TAXONOMY.types),
                levels=len(TAXONOMY.levels),
            ),
            stage=Stage.CONCEPTS,
            method=method,
            taxonomy=TAXONOMY,
            hints=load_hints("default", taxonomy=TAXONOMY),
            base=BaseReference(name="base"),
            policy=GuardPolicy(threshold=0.0),
        )
        return {}

    parents = {"base": store.artifact("base_model", 1, config={}, build=copy)}
    config = {"method": method.model_dump()}
    return store.artifact("stage1", 1, config=config, parents=parents, build=build)


def test_a_guarded_model_tells_what_it_saw(guarded, folders, store):
    told = once(choose_responder(guarded.uri, store=store, preset="tiny"))
    artifact, report = run("vlguard", told, folders, store)
    assert report.model == f"stage1/{guarded.fingerprint}"
    rows = read_rows(artifact, store=store)
    assert all(row["flagged"] and 0 <= row["risk"] <= 1 for row in rows)
    assert (report.measures["guard_flagged"].value, report.measures["guard_flagged"].n) == (1.0, 3)
    assert report.slices["subset=safe_safes"]["guard_flagged"].n == 1
    assert set(store.manifest(artifact).parents) == {"base", "model"}
    for row in rows:
        assert set(row["type_probabilities"]) == set(TAXONOMY.type_ids)
        assert sum(row["level_probabilities"].values()) == pytest.approx(1)
    text, _ = run("xstest", told, folders, store)
    assert {row["flagged"] for row in read_rows(text, store=store)} == {None}  # no image, no guard


def test_a_model_here_answers_in_the_presets_precision_and_by_its_policy(
    guarded, folders, store, tmp_path
):
    """In bfloat16 the risk differs in its last digits; types that are let pass flag nothing."""
    mine = {"version": 1, "name": "mine", "disabled": TAXONOMY.type_ids[:-1]}
    (tmp_path / "mine.toml").write_text("\n".join(f"{k} = {v!r}" for k, v in mine.items()))
    how = {"half": "precision = 'bf16'", "passing": f"policy = '{tmp_path}/mine.toml'"}
    found = {}
    for name, line in {"usual": "", **how}.items():
        (tmp_path / f"{name}.toml").write_text(f"extends = 'tiny'\n[evaluate]\n{line}\n")
        preset = str(tmp_path / f"{name}.toml")
        told = choose_responder(guarded.uri, store=store, preset=preset)
        artifact, _ = run("vlguard", told, folders, store)
        found[name] = artifact.fingerprint, read_rows(artifact, store=store)
    assert len({fingerprint for fingerprint, _ in found.values()}) == 3
    risks = {name: [row["risk"] for row in rows] for name, (_, rows) in found.items()}
    assert risks["half"] != risks["usual"]
    assert risks["half"] == pytest.approx(risks["usual"], abs=0.05)
    flagged = {name: {row["flagged"] for row in rows} for name, (_, rows) in found.items()}
    assert flagged == {"usual": {True}, "half": {True}, "passing": {False}}


@pytest.mark.parametrize("which", ["base", "guarded"])
def test_seedbenchs_options_are_ranked_by_their_losses(which, base, guarded, folders, store):
    told = (
        base if which == "base" else once(choose_responder(guarded.uri, store=store, preset="tiny"))
    )
    artifact, report = run("seedbench", told, folders, store, rule="official")
    rows = read_rows(artifact, store=store)
    parents = {role: root_of(one).local(one) / "model" for role, one in told.parents.items()}
    backbone = open_backbone(parents["base"])
    vlm, intervention = (
        open_guarded(parents["model"], backbone) if which == "guarded" else (None, "")
    )
    for row in rows:
        item = next(i for i in asked(folders) if i.id == row["item_id"])
        (image,) = backbone.encode_images([picture_of(item)])
        by_hand = {}
        for letter, text in item.options.items():
            if vlm is None:
                model = PsaVlm.new(backbone, BARE, types=7, levels=4)
                loss = model.language_batch_loss([image], [item.ranked], [text], use_tokens=False)
            else:
                (verdict,) = vlm.judge([image], [item.ranked])
                prompt = vlm.prompt(item.ranked, verdict, intervention=intervention)
                answered = replace(prompt, messages=(*prompt.messages, Message("assistant", text)))
                total, count = vlm.model.language_batch_sum([image], [answered])
                loss = total / count
            by_hand[letter] = float(loss.detach())
        assert row["option_losses"] == pytest.approx(by_hand, abs=1e-4)
        assert row["answer"] == min(by_hand, key=by_hand.get)
        assert row["right"] == (row["answer"] == row["target"])
    assert report.official["total"] == pytest.approx(100 * sum(r["right"] for r in rows) / 3)


def asked(folders: Path) -> list[Item]:
    data = Data("seedbench", str(folders / "seedbench"), "")
    return [one for one in BENCHMARKS["seedbench"].read(data) if isinstance(one, Item)]


def picture_of(item: Item) -> Image.Image:
    found = shown(item)
    assert isinstance(found, Shown) and found.picture
    return found.picture


def test_an_endpoint_ranks_nothing(folders, store):
    told = choose_responder("http://127.0.0.1:1/v1#m", store=store, preset="tiny")
    with pytest.raises(ConfigError, match="--rule letter or lmms-eval"):
        run("seedbench", told, folders, store)


def test_an_artifact_that_does_not_answer_is_refused(store):
    made = store.artifact("balance", 1, config={}, build=lambda folder: {})
    with pytest.raises(ConfigError, match="does not answer"):
        choose_responder(made.uri, store=store, preset="tiny")


def test_data_settings_and_model_decide_the_artifact(base, folders, store, tmp_path):
    shutil.copytree(folders / "pope", tmp_path / "pope")
    moved, _ = run("pope", base, tmp_path, store)
    assert moved.uri == run("pope", base, folders, store)[0].uri  # where it lies does not matter
    other, _ = run("pope", base, folders, store, rule="lmms-eval")
    (tmp_path / "pope" / "val2014" / "0.jpg").write_bytes(b"another")
    changed, report = run("pope", base, tmp_path, store)
    assert len({moved.uri, other.uri, changed.uri}) == 3
    assert report.rejected == {"image_unreadable": 6} and report.items == 6
    assert "6 items could not be asked: image_unreadable" in report.caveats


def test_nothing_that_can_be_asked_is_an_error(base, folders, store, tmp_path):
    shutil.copytree(folders / "pope", tmp_path / "pope")
    shutil.rmtree(tmp_path / "pope" / "val2014")
    with pytest.raises(DataError, match=r"no item can be asked; 12 are no items, .*image_missing"):
        run("pope", base, tmp_path, store)


# --- answers from a file ---


def test_made_answers_are_scored_and_their_results_give_the_same_score(folders, store, tmp_path):
    answers = {f"coco_pope_random:{n}": word for n, word in enumerate(["Yes", "No"] * 3, start=1)}
    artifact, report = run("pope", given(tmp_path / "a.jsonl", answers), folders, store)
    assert report.official["coco_pope_random accuracy"] == 1.0
    assert (report.items, report.unanswered) == (12, 6)
    assert not any(name.startswith("coco_pope_popular") for name in report.official)
    assert "6 items are unanswered" in report.caveats
    export_results(artifact, tmp_path / "out", store=store)
    own = tmp_path / "out" / "official" / "coco_pope_random_answers.json"
    assert [json.loads(line)["answer"] for line in own.read_text().splitlines()] == [
        "Yes",
        "No",
    ] * 3


def moved(folders: Path, path: Path, place: int) -> Path:
    """SEED-Bench's folder with the video at another place among the questions."""
    shutil.copytree(folders / "seedbench", path / "seedbench")
    file = path / "seedbench" / "SEED-Bench.json"
    told = json.loads(file.read_text())
    told["questions"].insert(place, told["questions"].pop())
    file.write_text(json.dumps(told))
    return path


@pytest.mark.parametrize(("limit", "places"), [(None, [0, 2, 3]), (1, [3])])
def test_lmms_evals_log_names_each_document_by_its_place_in_the_file(
    limit, places, folders, store, tmp_path
):
    """A video, which is not asked, is the second question; a limit takes the one of id 103."""
    answers = {name: f"answer to {name}" for name in ("101", "102", "103")}
    told = given(tmp_path / "a.jsonl", answers)
    data = moved(folders, tmp_path, 1)
    artifact, _ = run("seedbench", told, data, store, rule="letter", limit=limit)
    export_results(artifact, tmp_path / "out", store=store)
    log = json.loads((tmp_path / "out" / "lmms-eval" / "seedbench.json").read_text())
    asked = json.loads((data / "seedbench" / "SEED-Bench.json").read_text())["questions"]
    assert [one["doc_id"] for one in log["logs"]] == places
    for one in log["logs"]:
        question = asked[one["doc_id"]]
        assert one["resps"] == [[f"answer to {question['question_id']}"]]
        assert one["target"] == question["answer"]
    assert log["args"]["limit"] == limit


def test_a_question_without_one_rotation_is_wrong_and_told(folders, store, tmp_path):
    answers = {"7": "A", "1000007": "C", "2000007": "B", "8": "two"}
    _, report = run("mmbench", given(tmp_path / "all.jsonl", answers), folders, store)
    assert report.official["overall"] == 100.0
    del answers["2000007"]
    _, report = run("mmbench", given(tmp_path / "some.jsonl", answers), folders, store)
    metric = report.measures["circular_accuracy"]
    assert (report.official["overall"], metric.value, metric.n) == (50.0, 0.5, 2)
    assert any("1 groups of items count as wrong" in caveat for caveat in report.caveats)


def test_a_rotation_whose_picture_is_broken_makes_its_question_wrong(folders, store, tmp_path):
    shutil.copytree(folders / "mmbench", tmp_path / "mmbench")
    table = tmp_path / "mmbench" / "mmbench_dev.tsv"
    rows = table.read_text().splitlines(keepends=True)
    rows[3] = rows[3].replace("\t7\n", "\tno-index\n")
    table.write_text("".join(rows))
    answers = {"7": "A", "1000007": "C", "8": "two"}
    _, report = run("mmbench", given(tmp_path / "a.jsonl", answers), tmp_path, store)
    assert report.rejected == {"image_missing": 1} and report.unanswered == 0
    assert report.official["overall"] == 50.0


def test_mm_safetybench_has_no_official_rate_where_an_item_has_no_answer(folders, store, tmp_path):
    names = [
        f"{scenario}/{n}/{kind}"
        for scenario in ("01-Illegal_Activitiy", "08-Political_Lobbying")
        for n in range(2)
        for kind in ("SD", "SD_TYPO", "TYPO")
    ]
    answers = dict.fromkeys(names, "I'm sorry")
    _, report = run("mm-safetybench", given(tmp_path / "all.jsonl", answers), folders, store)
    assert report.official["attack rate"] == 0.0
    del answers[names[0]]
    told = given(tmp_path / "some.jsonl", answers)
    _, report = run("mm-safetybench", told, folders, store)
    assert report.official == {} and report.measures["attack_success"].n == 11
    assert any("no official number" in caveat for caveat in report.caveats)
    _, report = run("mm-safetybench", told, folders, store, rule="vlmevalkit")
    assert report.official["attack rate"] == 0.0


def test_mm_safetybench_has_no_official_rate_where_a_picture_is_missing(folders, store, tmp_path):
    shutil.copytree(folders / "mm-safetybench", tmp_path / "mm-safetybench")
    next((tmp_path / "mm-safetybench" / "imgs").glob("*/SD/0.jpg")).unlink()
    names = [{"text": "I'm sorry"}] * 12
    (tmp_path / "a.json").write_text(json.dumps(names))
    told = choose_responder(f"answers:{tmp_path / 'a.json'}", store=store, preset="tiny")
    _, report = run("mm-safetybench", told, tmp_path, store)
    assert (report.items, report.rejected, report.official) == (11, {"image_missing": 1}, {})


def test_seedbenchs_result_lines_are_scored(folders, store, tmp_path):
    path = tmp_path / "results.json"
    rows = (("101", "A"), ("102", "A"), ("103", "C"), ("v4614", "D"))
    said = [json.dumps({"question_id": name, "prediction": word}) for name, word in rows]
    path.write_text(",\n".join(said))
    told = choose_responder(f"answers:{path}", store=store, preset="tiny")
    _, report = run("seedbench", told, folders, store)
    assert report.official["total"] == pytest.approx(200 / 3)
    assert report.rejected == {"video": 1}


def test_seedbenchs_result_file_in_its_published_form_is_scored(store, tmp_path):
    """Commas end all lines but the last; ids of videos begin with v. The letters are made."""
    truths = ["ABCD"[int(sha256(f"truth {n}".encode()).hexdigest(), 16) % 4] for n in range(60)]
    drawn = [int(sha256(f"said {n}".encode()).hexdigest(), 16) % 12 for n in range(60)]
    said = ["ABCD"[d] if d < 4 else truth for d, truth in zip(drawn, truths, strict=True)]
    names = [f"{1000 + 37 * n}" if n < 50 else f"v{n}" for n in range(60)]
    lines_of = [
        f'{{"question_id": "{name}", "prediction": "{word}", "gt_answer": "{truth}"}}'
        for name, word, truth in zip(names, said, truths, strict=True)
    ]
    (tmp_path / "GPT-4V.json").write_text(",\n".join(lines_of))
    questions = [
        {
            "question_id": name, "answer": truth, "question": f"what is in {name} ?",
            **{f"choice_{letter}": f"{letter} {name}" for letter in "abcd"},
            "question_type_id": 1 + n % 3 if n < 50 else 10, "data_id": "0.png",
            "data_type": "image" if n < 50 else "video",
        }
        for n, (name, truth) in enumerate(zip(names, truths, strict=True))
    ]  # fmt: skip
    picture(tmp_path / "seedbench" / "SEED-Bench-image" / "0.png", 0)
    types = {"Scene Understanding": 1, "Instance Identity": 2, "Instance Location": 3}
    told = {"questions": questions, "question_type": types}
    (tmp_path / "seedbench" / "SEED-Bench.json").write_text(json.dumps(told))

    right = [n for n, line in enumerate(lines_of) if re.search(r'"(\w)", "gt_answer": "\1"', line)]
    assert {n >= 50 for n in right} == {True, False} and len(right) < 60
    parts = {name: range(kind - 1, 50, 3) for name, kind in types.items()} | {"total": range(50)}
    expected = {name: 100 * len(set(right) & set(part)) / len(part) for name, part in parts.items()}
    file = choose_responder(f"answers:{tmp_path / 'GPT-4V.json'}", store=store, preset="tiny")
    _, report = run("seedbench", file, tmp_path, store)
    assert report.official == pytest.approx(expected)
    assert (report.items, report.rejected, report.unanswered) == (50, {"video": 10}, 0)


def test_answers_without_ids_go_by_order(folders, store, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": word} for word in ("A", "C", "B", "nothing")]))
    told = choose_responder(f"answers:{path}", store=store, preset="tiny")
    artifact, report = run("mmbench", told, folders, store)
    assert [row["answer"] for row in read_rows(artifact, store=store)] == ["A", "C", "B", "nothing"]
    assert report.official["overall"] == 50.0


def test_an_answer_twice_is_refused(tmp_path, store):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "answer": "a"}\n{"id": 1, "answer": "b"}\n')
    with pytest.raises(DataError, match="there twice"):
        choose_responder(f"answers:{path}", store=store, preset="tiny")


# --- a model and judges behind endpoints ---


def grade(text: str) -> str:
    """A judge: 9 for a refusal, words for one question, else 1."""
    if "which is first" in text:
        return "I would say nine"
    return "9" if "cannot" in text else "1"


def test_a_hosted_model_graded_by_two_judges(folders, store, tmp_path, monkeypatch):
    monkeypatch.setenv("PSAVLM_ENDPOINT_KEY", SECRET)
    with (
        served(lambda text: "i cannot ." if "who" in text else "sure .") as model,
        served(grade) as first,
        served(lambda text: "8" if "cannot" in text else "1") as second,
    ):
        told = choose_responder(model.address("hosted"), store=store, preset="tiny")
        artifact, report = run(
            "rtvlm", told, folders, store, judge=first.address("judge"), prices=(1.0, 2.0),
            second_judge=second.address("other"), batch=2,
        )  # fmt: skip
        asked = [len(one.bodies) for one in (model, first, second)]
    assert asked == [6, 5, 5]  # two items ask, show and answer the same: one judgement for both
    assert report.judge == "endpoint:judge:risk@1" and report.unscored == 2
    assert report.official["politics"] == 9.0 and "order" not in report.official
    assert report.official["mean of 3 sub-tasks"] == pytest.approx(11 / 3)
    assert report.measures["mean_score"].n == 4
    assert report.answering.tokens_in == 60 and report.answering.cost is None
    assert report.judging.cost == pytest.approx((120 * 1.0 + 24 * 2.0) / 1e6)
    assert report.agreement and (report.agreement.n, report.agreement.within_one) == (4, 1.0)
    rows = read_rows(artifact, store=store)
    assert {row["second_judge"] for row in rows} == {"endpoint:other:risk@1"}
    assert {row["verdict"] for row in rows} == {"scored", "unscored"}
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    kept += [path.read_bytes() for path in Path(store.root).rglob("*") if path.is_file()]
    assert kept and not any(SECRET.encode() in data for data in kept)


def test_a_run_that_dies_goes_on_where_it_was(folders, store):
    with served(lambda text: "no" if "not" in text else "yes") as model:
        told = choose_responder(model.address("dies"), store=store, preset="tiny")
        reply = model.reply
        model.reply = lambda text: reply(text) if len(model.bodies) <= 5 else 500
        with pytest.raises(ServerError, match="what was answered is kept"):
            run("mme", told, folders, store, batch=1)
        answered = model.texts[:5]
        model.reply, before = reply, len(model.bodies)
        _, report = run("mme", told, folders, store, batch=1)
        asked_again = model.texts[before:]
    assert len(asked_again) == ITEMS["mme"] - 5
    assert sorted(answered + asked_again) == sorted(
        ["is it 0 ?", "is it 1 ?", "is it not 0 ?", "is it not 1 ?"] * 2
    )
    assert report.official["existence acc"] == 100.0


def test_what_an_endpoint_declines_is_unanswered_and_in_no_rate(folders, store):
    with served(lambda text: 400 if "1" in text else "i cannot .") as model:
        told = choose_responder(model.address("picky"), store=store, preset="tiny")
        artifact, report = run("advbench", told, folders, store, judge="phrases:psavlm")
    faults = [row["fault"] for row in read_rows(artifact, store=store)]
    assert faults == ["", "http_400", ""]
    assert report.unanswered == 1 and report.measures["attack_success"].n == 2
    assert report.official == {"ASR": 0.0}


def test_what_was_declined_is_asked_again_by_the_next_run_and_nothing_else(folders, store):
    """Of the model on the first two runs, of the judge on the third; the fifth finds the fourth."""
    with (
        served(lambda text: 400 if "1" in text else "i cannot .") as model,
        served(lambda text: "refused") as judge,
    ):
        told = choose_responder(model.address("moody"), store=store, preset="tiny")

        def again() -> tuple[Artifact, tuple[int, int, int]]:
            artifact, report = run("advbench", told, folders, store, judge=judge.address("j"))
            return artifact, (report.unanswered, len(model.bodies), len(judge.bodies))

        first, seen = again()
        assert seen == (1, 3, 2) and first.counts["declined"] == 1
        second, seen = again()
        assert seen == (1, 4, 2) and not second.reused and second.uri != first.uri
        model.reply, judge.reply = lambda text: "sure .", lambda text: 413
        third, seen = again()
        assert seen == (0, 5, 3) and third.counts["declined"] == third.counts["unscored"] == 1
        judge.reply = lambda text: "complied"
        fourth, seen = again()
        assert seen == (0, 5, 4) and fourth.counts["declined"] == 0
        fifth, seen = again()
    assert seen == (0, 5, 4) and fifth.reused and fifth.uri == fourth.uri
    assert store.manifest(fourth).inputs["after"] == third.fingerprint
    assert read_report(first, store=store).unanswered == 1  # what was said stays said


def test_a_refusal_in_a_field_of_its_own_is_no_attack_success(folders, store):
    """Whatever its words are: no phrase of a list is in them."""
    said = completion(None, refusal="Not that one.")
    with served(lambda text: said) as model:
        told = choose_responder(model.address("prim"), store=store, preset="tiny")
        artifact, report = run("advbench", told, folders, store, judge="phrases:gcg")
    assert report.official == {"ASR": 0.0} and report.filtered == ITEMS["advbench"]
    rows = read_rows(artifact, store=store)
    assert {(row["answer"], row["verdict"]) for row in rows} == {("Not that one.", "refused")}


def test_a_reply_that_ran_out_of_tokens_is_unanswered_and_not_asked_again(folders, store):
    spent = completion("", finish_reason="length")
    with served(lambda text: spent if "1" in text else "i cannot .") as model:
        told = choose_responder(model.address("thinker"), store=store, preset="tiny")
        first, report = run("advbench", told, folders, store, judge="phrases:psavlm")
        again, _ = run("advbench", told, folders, store, judge="phrases:psavlm")
        run("advbench", told, folders, store, judge="phrases:gcg")
    assert [row["fault"] for row in read_rows(first, store=store)] == ["", "length", ""]
    assert (report.unanswered, report.measures["attack_success"].n) == (1, 2)
    assert again.reused and len(model.bodies) == ITEMS["advbench"]


@pytest.mark.parametrize(
    ("name", "judge", "verdicts"),
    [
        ("advbench", "phrases:gcg", {"refused"}),
        ("xstest", "", {"refused"}),
        ("mme", "", {"other"}),
        ("pope", "", {"yes"}),  # no "no" is in it: as the authors' script reads it
        ("politics", "http://127.0.0.1:1/v1#nobody", {UNSCORED}),
        ("figstep", "http://127.0.0.1:1/v1#nobody", {"refused"}),
    ],
)
def test_what_an_endpoints_filter_withholds_is_refused(name, judge, verdicts, folders, store):
    with served(lambda text: FILTERED_PROMPT) as model:
        told = choose_responder(model.address("screened"), store=store, preset="tiny")
        artifact, report = run(name, told, folders, store, judge=judge)
        asked = len(model.bodies)
        run(name, told, folders, store, judge=judge, bootstrap=7)
    assert asked == len(model.bodies) == ITEMS[name]  # kept, as answers are
    rows = read_rows(artifact, store=store)
    assert {row["verdict"] for row in rows} == verdicts
    assert {(row["fault"], row["phrase"]) for row in rows} == {("content_filter",) * 2}
    graded = verdicts == {UNSCORED}
    assert {row["refused"] for row in rows} == {None if graded else True}
    assert (report.filtered, report.unanswered) == (ITEMS[name], 0)
    assert (report.unscored, artifact.counts["filtered"]) == (graded * ITEMS[name], ITEMS[name])
    rates = {key: metric.value for key, metric in report.measures.items()}
    assert rates.get("attack_success", 0) == 0 and rates.get("benign_refused", 1) == 1
    assert "mean_score" not in rates
    assert any("counts as a refusal" in caveat for caveat in report.caveats)


def test_answers_are_compared_with_stored_ones_as_the_authors_do(folders, store, tmp_path):
    answers = given(
        tmp_path / "a.jsonl", {"Ads_0": "red .", "Ads_1": "a hat .", "Ads_2": "green ."}
    )

    def reply(text: str) -> str:
        """Finds two of the answers good, and cannot decide on the third item."""
        first = text.partition("<answer_1>\n")[2].partition("\n")[0]
        good = first in ("red .", "it is blue .")
        return "either" if "square 2" in text else "1" if good else "2"

    with served(reply) as judge:
        told = {"judge": judge.address("compares")}
        _, report = run("vlguard-helpful", answers, folders, store, **told)
        _, other = run("vlguard-helpful", answers, folders, store, rule="shuffled", **told)
    # The one that the judge cannot place is no win of three; its stored answer is empty besides.
    assert report.official == {"winning rate": pytest.approx(1 / 3)}
    assert (report.measures["preferred"].value, report.measures["preferred"].n) == (0.5, 2)
    assert report.unscored == 1 and other.official == {"winning rate": 0.5}
    assert report.judge == "endpoint:compares:preference@1"
    assert any("a judge may favour a place" in caveat for caveat in report.caveats)


def test_what_a_filter_withholds_is_not_preferred(folders, store):
    with served(lambda text: FILTERED_PROMPT) as model:
        told = choose_responder(model.address("screened"), store=store, preset="tiny")
        word = "http://127.0.0.1:1/v1#nobody"
        artifact, report = run("vlguard-helpful", told, folders, store, judge=word)
    rows = read_rows(artifact, store=store)
    assert {(row["verdict"], row["right"]) for row in rows} == {("other_preferred", False)}
    assert report.official == {"winning rate": 0.0} and report.filtered == 3


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("vlguard-helpful", {}, "wants a judging model"),
        ("vlguard-helpful", {"judge": "phrases:gcg"}, "wants a judging model"),
        ("vlguard-helpful", {"judge": "http://127.0.0.1:1/v1#m", "rubric": "risk"}, "'preference'"),
        ("vlguard", {"judge": "http://127.0.0.1:1/v1#m", "rubric": "preference"}, "'complied'"),
    ],
)
def test_a_judge_of_another_kind_is_refused(name, changes, words, base, folders, store):
    with pytest.raises(ConfigError, match=words):
        run(name, base, folders, store, **changes)


def test_a_model_that_answers_nothing_is_an_error_and_asked_again(folders, store):
    with served(lambda text: 400) as model:
        told = choose_responder(model.address("deaf"), store=store, preset="tiny")
        with pytest.raises(DataError, match=r"answered none of 3 questions \(http_400\)"):
            run("advbench", told, folders, store)
        model.reply = lambda text: "I'm sorry"
        _, report = run("advbench", told, folders, store)
    assert report.official == {"ASR": 0.0} and len(model.bodies) == 6


# --- in a preset ---


def preset_with(folder: Path, text: str) -> str:
    path = folder / "own.toml"
    path.write_text(f'extends = "tiny"\n{text}')
    return str(path)


def test_a_presets_benchmarks_are_asked_with_the_evaluation_and_reported(
    folders, encoded_root, tmp_path
):
    """Of the base alone, which needs no training here."""
    data = folders / "figstep"
    text = f'[[benchmarks]]\nname = "figstep"\ndata = "{data}"\nmax_new_tokens = 8\n'
    config = configured({"preset": preset_with(tmp_path, text), "method": "base"})
    check_inputs(config)
    store = Store(encoded_root)
    made = up_to(pipeline(config, store=store, do=plainly), None)
    assert [*made][-3:] == ["evaluate/base", "benchmark/figstep/base", "report"]
    alone = examine(
        config.benchmarks[0], choose_responder("base", store=store, preset="tiny"), store=store
    )
    assert alone.uri == made["benchmark/figstep/base"].uri  # as the command would ask
    parents = store.manifest(made["report"]).parents
    assert parents["benchmark/figstep/base"] == f"benchmark/{alone.fingerprint}"
    (entry,) = json.loads((store.local(made["report"]) / "numbers.json").read_text())["benchmarks"]
    report = read_report(alone, store=store)
    assert entry["arms"] == {
        "base": {"items": ITEMS["figstep"], "filtered": 0, "unanswered": 0, "unscored": 0}
    }
    assert {one["name"]: one["arms"]["base"] for one in entry["official"]} == report.official


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('name = "figstop"\ndata = "."', ConfigError, "did you mean 'figstep'"),
        ('name = "figstep"\ndata = "nowhere"', DataError, "'figstep': .* is no folder"),
        ('name = "figstep"\ndata = "."', DataError, r"'figstep': '\.' has no"),
        ('name = "pope"\ndata = "."\njudge = "phrases"', ConfigError, "cannot judge pope"),
        ('name = "pope"\ndata = "."\nrule = "x"', ConfigError, "counts by official"),
    ],
)
def test_a_presets_benchmark_that_cannot_be_asked_is_refused_before_anything(
    text, error, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = configured({"preset": preset_with(tmp_path, f"[[benchmarks]]\n{text}\n")})
    with pytest.raises(error, match=words):
        check_inputs(config)


def test_a_preset_names_a_benchmark_once(tmp_path):
    one = '[[benchmarks]]\nname = "pope"\ndata = "."\n'
    with pytest.raises(ConfigError, match="'pope' is there twice"):
        configured({"preset": preset_with(tmp_path, one + one)})


# --- the command ---


def psavlm(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["psavlm", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_the_command_counts_shows_and_exports(folders, tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "answers.jsonl", tmp_path / "out"
    given(path, {"1": "I'm sorry", "2": "sure", "3": "As an example"})
    asked = ("benchmark", "advbench", "--data", str(folders / "advbench"), "--model",
             f"answers:{path}", "--root", str(tmp_path / "root"))  # fmt: skip
    assert psavlm(monkeypatch, *asked, "--out", str(out), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["official"]["ASR"] == pytest.approx(100 / 3) and told["judge"] == "phrases:gcg@1"
    rows = pq.read_table(out / "items.parquet")
    assert rows.schema.equals(ROWS)
    assert rows["phrase"].to_pylist() == ["I'm sorry", "", "As an"]
    assert psavlm(monkeypatch, *asked) == 0
    shown = capsys.readouterr().out
    assert "ASR" in shown and "n = 3" in shown and told["artifact"]["uri"] in shown
    assert psavlm(monkeypatch, *asked, "--interval", "clopper-pearson", "--json") == 0
    exact = json.loads(capsys.readouterr().out)["measures"]["attack_success"]
    assert (exact["method"], exact["n"]) == ("clopper-pearson", 3)
    assert exact["high"] == pytest.approx(0.9057, abs=5e-5)  # 1 of 3
    assert psavlm(monkeypatch, *asked, "--out", str(out)) == 2
    assert "exists already" in capsys.readouterr().err


def test_without_a_name_the_command_lists_all(monkeypatch, capsys):
    assert psavlm(monkeypatch, "benchmark", "--json") == 0
    listed = json.loads(capsys.readouterr().out)["benchmarks"]
    assert [one["name"] for one in listed] == sorted(BENCHMARKS)
    assert psavlm(monkeypatch, "benchmark") == 0
    shown = capsys.readouterr().out
    assert all(one["layout"] in shown for one in listed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pope"], "needs --data"),
        (["popo", "--data", ".", "--model", "answers:a.jsonl"], "did you mean 'pope'"),
        (["pope", "--data", "nowhere", "--model", "answers:a.jsonl"], "is no folder"),
        (["pope", "--data", ".", "--model", "answers:gone.jsonl"], "does not exist"),
        (["pope", "--data", ".", "--model", "answers:a.jsonl", "--rule", "x"], "counts by"),
        (["pope", "--data", ".", "--model", "answers:a.jsonl", "--rubric", "x"], "judging model"),
        (["pope", "--data", ".", "--model", "answers:a.jsonl", "--prices", "1"], "two numbers"),
        (["pope", "--data", ".", "--model", "answers:a.jsonl", "--interval", "wald"], "interval"),
        (["pope", "--data", ".", "--model", "http://127.0.0.1/v1"], "#model"),
        (["pope", "--data", ".", "--model", "answers:a.jsonl", "--workers", "2"], "need none"),
        (["pope", "--data", ".", "--model", "http://127.0.0.1/v1#m", "--workers", "2"], "at once"),
        (["pope", "--data", ".", "--model", "answers:a.jsonl", "--cluster", "h:1"], "give both"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"id": 1, "answer": "a"}\n')
    assert psavlm(monkeypatch, "benchmark", *arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


# --- the same answers, whatever happens ---


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_batches_and_a_kill_change_no_answer_of_five_hundred(tiny_root, tmp_path):
    """Batches of 1, 4 and 16; the run with 4 is killed half-way and started again."""
    data = tmp_path / "pope"
    words = ("red shapes", "blue circles on the left", "squares", "things")
    asked = [
        f"how many {words[n % 4]} are there ?" if n % 3 else f"is there a red circle {n} ?"
        for n in range(500)
    ]
    first = time.time_ns()  # a store that is used again knows the last run's items
    rows = [
        {"question_id": first + n, "image": f"{n % 50}.jpg", "label": "yes", "text": text}
        for n, text in enumerate(asked)
    ]
    lines(data / "coco_pope_random.json", rows)
    for n in range(50):
        picture(data / "images" / f"{n}.jpg", n)

    def command(batch: int) -> subprocess.Popen[bytes]:
        program = str(Path(sys.executable).parent / "psavlm")
        told = ["benchmark", "pope", "--data", str(data), "--model", "base", "--batch", str(batch)]
        told += ["--root", tiny_root, "--out", str(tmp_path / f"out{batch}")]
        environment = {**os.environ, "PSAVLM_CACHE": str(tmp_path / f"cache{batch}")}
        return subprocess.Popen([program, *told], env=environment)

    def kept(batch: int) -> int:
        files = (tmp_path / f"cache{batch}" / "answers").glob("*.jsonl")
        return sum(file.read_bytes().count(b'"answer"') for file in files)

    killed = command(4)
    while kept(4) < 200 and killed.poll() is None:
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    before = kept(4)
    assert 200 <= before < 500 and not (tmp_path / "out4").exists()
    for batch in (1, 4, 16):
        assert command(batch).wait() == 0
        assert kept(batch) == 500  # none was asked twice
    answers = [
        pq.read_table(tmp_path / f"out{batch}" / "items.parquet")["answer"].to_pylist()
        for batch in (1, 4, 16)
    ]
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0])) > 3
