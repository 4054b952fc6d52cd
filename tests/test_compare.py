"""Two models on the same items: the verdict, the price, and every way to name a model."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from flows.cli.main import application
from flows.comparing import compare_versions
from flows.line import plainly
from infra.parts import write_parts
from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.comparison import CompareConfig, Comparison, Model
from schemas.config import EvaluateConfig
from schemas.decision import Version
from schemas.errors import ConfigError, DataError, ServerError
from schemas.presets import Parameters, resolve
from schemas.samples import ROWS
from tasks.base_model import FOLDER
from tasks.compare import outside, read_past
from tasks.compare.lines import holm, macro, two_sided
from tasks.compare.outside import ask_outside
from tasks.compare.page import document
from tasks.compare.sides import find_sides
from tasks.compare.step import check_same, compared, verdict, write
from tasks.compare.tables import by_type, rates
from tasks.compare.words import abilities
from tasks.evaluate.judging import EXACT, MARKERS
from tasks.evaluate.step import ITEMS, read_report
from tasks.named import Named, find_model, find_pair
from tasks.respond import responder_of
from tasks.sweep.document import as_markdown
from tests.endpoint_server import FILTERED_PROMPT, completion, served
from tests.small_run import rows as item_rows
from tests.small_run import small_run
from tests.test_gate_statistics import models, pairs

torch.set_num_threads(1)
CONFIG = CompareConfig(bootstrap=200)
TYPES = ("privacy", "insults", "politics")


def judged(rng, **change) -> tuple[list[dict], list[dict]]:
    """The old model's rows and the new one's, with all that a comparison reads."""
    new, old = models(rng, **change)
    for rows in (old, new):
        for number, row in enumerate(rows):
            risky = row["risk_type"] != "clean"
            row |= {
                "sample_id": f"{number:05}", "question": "?", "reference": "two",
                "risk_level": 2 if risky else 0, "answer": "two words",
                "risk_type": TYPES[number % 3] if risky else "clean",
            }  # fmt: skip
    return old, new


def said(old: list[dict], new: list[dict]) -> Comparison:
    slices = {row["sample_id"]: {"source": ("ab"[int(row["sample_id"]) % 2],)} for row in old}
    sides = {"old": Model(name="3", answers="x/1"), "new": Model(name="4", answers="x/2")}
    found = compared(old, new, slices, CONFIG)
    return Comparison.model_validate({**found, **sides, "labelled": "validate/1"})


# --- what is said ---


@pytest.mark.parametrize(
    ("obeyed", "word", "first"),
    [
        ((0.20, 0.02), "safer", "Safer: risky requests obeyed"),
        ((0.02, 0.20), "worse", "Worse: risky requests obeyed"),
        ((0.05, 0.05), "not shown", "Not shown to be safer or worse: risky requests obeyed"),
    ],
)
def test_the_page_begins_with_the_verdict_and_the_price_follows(tmp_path, obeyed, word, first):
    told = said(*judged(np.random.default_rng(0), obeyed=obeyed))
    assert told.verdict == word
    assert told.sentence.startswith(first) and "n = 540" in told.sentence
    assert told.price.startswith("The price: benign requests refused")
    write(told, tmp_path)
    text = (tmp_path / "compare.md").read_text()
    assert text.startswith(f"# {word}: 4 against 3\n\n{first}")
    page = (tmp_path / "compare.html").read_text()
    assert f"<h1>{word}: 4 against 3</h1>" in page
    assert "http" not in page and "<script" not in page
    assert Comparison.model_validate_json((tmp_path / "compare.json").read_text()) == told


def test_the_rates_intervals_are_those_that_are_asked_for_and_the_page_says_so():
    old, new = judged(np.random.default_rng(0), obeyed=(0.2, 0.02))
    sides = {"old": Model(name="3", answers="x/1"), "new": Model(name="4", answers="x/2")}
    config = CompareConfig(bootstrap=200, interval="clopper-pearson")
    found = compared(old, new, {row["sample_id"]: {} for row in old}, config)
    told = Comparison.model_validate({**found, **sides, "labelled": "validate/1"})
    assert {line.new.method for line in told.rates} == {"clopper-pearson"}
    assert "Rates have Clopper-Pearson intervals" in as_markdown(document(told))
    plain = said(old, new)
    assert "Rates have Wilson intervals" in as_markdown(document(plain))
    assert "interval" not in json.loads(plain.model_dump_json())
    assert [(a.low, a.p) for a in told.rates] == [(b.low, b.p) for b in plain.rates]


def test_two_models_that_are_the_same_differ_in_nothing():
    old, _ = judged(np.random.default_rng(0))
    told = said(old, old)
    assert told.verdict == "not shown"
    assert {line.p_holm for line in (*told.rates, *told.types, *told.slices)} == {1.0}
    assert {line.mark for line in told.slices} == {""}
    assert all(mean.low <= mean.difference == 0 <= mean.high for mean in told.means)


def test_a_model_that_refuses_more_benign_requests_pays_for_it_in_the_first_lines():
    told = said(
        *judged(np.random.default_rng(1), obeyed=(0.2, 0.0), worse="benign_refused", by=0.05)
    )
    marks = {line.name: line.mark for line in told.rates}
    assert (marks["risky_obeyed"], marks["benign_refused"]) == ("better", "worse")
    assert "benign requests refused 0.0 % before" in told.price


def test_items_of_two_judges_are_never_in_one_line():
    old, new = judged(np.random.default_rng(2), obeyed=(0.3, 0.0))
    for number, both in enumerate(zip(old, new, strict=True)):
        for row in both:
            row["judge"] = MARKERS if number % 2 else EXACT
    lines = [line for line in rates(old, new, CONFIG) if line.name == "risky_obeyed"]
    assert [(line.judge, line.n) for line in lines] == [(EXACT, 270), (MARKERS, 270)]
    assert verdict(lines, alpha=0.05) == "safer"
    # One judge that says the opposite is enough to say worse.
    for row in new:
        if row["judge"] == MARKERS and row["risk_type"] != "clean":
            row["outcome"] = "obeyed"
    assert verdict(rates(old, new, CONFIG), alpha=0.05) == "worse"


def test_the_level_that_the_page_tells_is_the_one_that_decides():
    old, new = judged(np.random.default_rng(0), obeyed=(0.2, 0.02))
    p = rates(old, new, CONFIG)[0].p

    def word(alpha: float) -> str:
        found = compared(
            old, new, {row["sample_id"]: {} for row in old}, CompareConfig(alpha=alpha)
        )
        assert found["alpha"] == alpha
        return found["verdict"]

    assert (word(2 * p), word(p / 2)) == ("safer", "not shown")


def test_the_risk_types_add_up_and_pay_for_their_number():
    old, new = judged(np.random.default_rng(3), obeyed=(0.06, 0.02))
    found = by_type(old, new, CONFIG)
    assert [(line.what, line.n) for line in found] == [(name, 180) for name in sorted(TYPES)]
    assert all(line.p <= line.p_holm for line in found)
    whole = rates(old, new, CONFIG)[0]
    assert whole.difference == pytest.approx(np.mean([line.difference for line in found]))


def test_other_items_or_another_judge_are_refused():
    old, new = judged(np.random.default_rng(4))
    with pytest.raises(DataError, match="other items: 1 of"):
        check_same(old[1:], new)
    with pytest.raises(DataError, match="other items: 1 of"):
        check_same(old, [{**new[0], "question": "another"}, *new[1:]])
    with pytest.raises(DataError, match="another judge: 1 items"):
        check_same(old, [{**new[0], "judge": MARKERS}, *new[1:]])


# --- its arithmetic ---


def test_holm_corrects_as_he_published_it():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_a_two_sided_p_does_not_know_which_model_is_the_new_one():
    assert (
        two_sided(pairs(3, 12, 90))
        == two_sided(pairs(12, 3, 90))
        == pytest.approx(0.0352, abs=1e-4)
    )
    assert two_sided(pairs(0, 0, 90)) == 1.0


def test_the_macro_mean_weighs_types_alike_and_is_sure_of_nothing_it_has_not_seen():
    old, new = judged(np.random.default_rng(3), obeyed=(0.3, 0.0))
    kept = [n for n, row in enumerate(old) if row["risk_type"] != "privacy" or n < 60]
    for row in new:
        row["outcome"] = "refused" if row["risk_type"] != "clean" else row["outcome"]
    types = by_type([old[n] for n in kept], [new[n] for n in kept], CONFIG)
    mean = macro(types, "m", "in words")
    assert (mean.n, mean.new) == (20 + 180 + 180, 0.0)
    assert mean.old == pytest.approx(np.mean([line.old.value for line in types]))
    assert mean.difference == pytest.approx(-mean.old)
    assert mean.low < mean.difference < mean.high < 0
    (alone,) = [line for line in types if line.n == 20]
    one = macro([alone], "m", "in words")
    assert (one.low, one.high) == pytest.approx((alone.low, alone.high))
    wide = max(line.high - line.low for line in types)
    assert mean.high - mean.low < wide


def test_lengths_of_answers_are_compared_by_group():
    old, new = judged(np.random.default_rng(4))
    for row in new:
        row["answer"] = "one two three"
    told = said(old, new)
    (words,) = [mean for mean in told.means if mean.name == "benign_words"]
    assert (words.old, words.new, words.low, words.high) == (2.0, 3.0, 1.0, 1.0)
    assert words.method == "bootstrap_by_group"


# --- every way to name a model ---


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A root with two untrained models on one small base, and 16 items."""
    return small_run(tmp_path_factory.mktemp("compare") / "store")


def root_of(made) -> str:
    return made.base.uri.rsplit("/", 2)[0]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch) -> Path:
    """A folder of one's own without servers, settings or answers."""
    monkeypatch.chdir(tmp_path)
    # An untrained model never ends its answers.
    Path("short.toml").write_text('extends = "tiny"\n[evaluate]\nmax_new_tokens = 4\n')
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none/mlflow.db")
    for name in ("PSAVLM_ENDPOINT_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def psavlm(*words: str) -> dict:
    asked = [*words, "--preset", "short.toml", "--json"]
    told = CliRunner().invoke(application(), asked, catch_exceptions=False)
    return json.loads(told.stdout.splitlines()[-1])


def test_two_artifacts_are_compared_on_the_items_that_are_named(made, alone):
    where = ("--root", root_of(made), "--items", made.labelled.uri)
    line = psavlm("compare", made.stage1.uri, made.stage2.uri, *where)
    assert line["verdict"] == "not shown" and line["n"] == 16
    assert line["old"]["name"] == f"stage1 {made.stage1.fingerprint[:10]}"
    again = ["compare", made.stage1.uri, made.stage2.uri, *where, "--preset", "short.toml"]
    shown = CliRunner().invoke(application(), again, catch_exceptions=False)
    first, sentence, price, *rest = shown.stdout.splitlines()
    assert first == f"not shown: {line['new']['name']} against {line['old']['name']}"
    assert (sentence, price) == (line["sentence"], line["price"])
    assert [end.rpartition(".")[2] for end in rest[-3:]] == ["html", "md", "json"]
    assert Path(rest[-3]).is_file() and len(rest) < 30 and "#" not in shown.stdout
    assert shown.stderr.count("cached") == 5  # features and answers of both, and the page


def test_a_hugging_face_folder_answers_as_the_artifact_of_it(made, alone):
    store = Store(root_of(made))
    folder = store.local(made.base) / FOLDER
    line = psavlm(
        "compare", str(folder), made.base.uri, "--root", store.root, "--items", made.labelled.uri
    )
    assert {change["old"] == change["new"] for change in line["changes"]} == {True}
    assert str(folder.parent) not in json.dumps(line)


def test_base_is_the_base_of_the_other_model(made, alone):
    store = Store(root_of(made))
    old, new = find_pair(("base", made.stage2.uri))
    assert (old.base, old.model) == (new.base, None)
    for names in (("base", "base"), ("base", "https://host/v1#abc")):
        with pytest.raises(ConfigError, match="`base` is the base of the other model"):
            find_pair(names)
    folder = str(store.local(made.base) / FOLDER)
    old, new = find_sides((folder, "base"), store=store)
    assert (old.name, new.name) == (FOLDER, "base") and old.base == new.base
    # Alone there is no other one: whoever asks says whose is meant.
    assert find_model("base", base=lambda: Named("base", base=made.base)).base == made.base


def test_what_is_no_model_is_told(made, alone):
    with pytest.raises(ConfigError, match="step 'validate', which does not answer"):
        find_model(made.labelled.uri)
    (alone / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no config.json"):
        find_model(str(alone / "empty"))
    with pytest.raises(ConfigError, match="the registry has no model 'champion'"):
        find_model("champion")


def test_all_versions_are_asked_the_same_items(made, alone):
    store, elsewhere = Store(root_of(made)), taught(made, seen_before(made, range(50, 53)))
    versions = [
        Version(
            version=number, fingerprint=model.fingerprint, uri=model.uri, step=model.step,
            root=store.root, run="", created=f"2026-11-0{number}T00:00:00",
        )
        for number, model in enumerate((made.stage1, made.stage2, elsewhere), start=1)
    ]  # fmt: skip
    gone = {**versions[0].model_dump(), "version": 4, "uri": f"{store.root}/stage1/{'0' * 24}"}
    versions.append(Version.model_validate(gone))
    config = resolve(Parameters(preset="short.toml"))
    page = compare_versions(versions, made.labelled.uri, config, do=plainly, store=store)
    past = read_past(page, store=store)
    assert [one.error for one in past.versions] == ["", "", "", "its artifact is gone"]
    assert past.n == 16 and past.versions[0].before is None
    assert [one.before.n for one in past.versions[1:3]] == [8, 5]
    assert [one.learnt for one in past.versions] == [None, None, 3, None]
    text = (store.local(page) / "history.md").read_text()
    assert text.startswith("# All registered versions on common items") and "| 2 |" in text
    assert "version 3 was trained on 3 of the items" in text
    with pytest.raises(ConfigError, match="of 2 registered versions none is there"):
        compare_versions(versions[:2], "", config, do=plainly, store=store)


class Desk(ThreadingHTTPServer):
    """An endpoint that refuses what asks for a sign; it breaks off after `left` questions."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Clerk)
        self.left, self.asked, self.bodies = 10**9, 0, []
        self.address = f"http://127.0.0.1:{self.server_port}/v1#abc"


class Clerk(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        desk = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        desk.asked += 1
        desk.bodies.append(body)
        if desk.asked > desk.left:
            self.send_error(401)
            return
        text = body["messages"][0]["content"][1]["text"]
        word = "sorry , i cannot" if "sign" in text else "two"
        data = json.dumps({"choices": [{"message": {"content": word}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    thread = threading.Thread(target=desk.serve_forever, daemon=True)
    thread.start()
    yield desk
    desk.shutdown()
    desk.server_close()


def test_an_endpoint_is_asked_the_same_items_and_no_item_twice(made, alone, desk):
    store = Store(root_of(made))
    model = responder_of(find_model(desk.address))
    asked = {"labelled": made.labelled, "samples": made.samples, "store": store}
    desk.left = 5
    with pytest.raises((ConfigError, ServerError)):
        ask_outside(EvaluateConfig(bootstrap=50), model, **asked)
    desk.left, before = 10**9, desk.asked
    found = ask_outside(EvaluateConfig(bootstrap=50), model, **asked)
    assert desk.asked - before == 16 - 5  # five answers were kept
    report = read_report(found, store=store)
    assert report.metrics["risky_obeyed"].n == 8
    image = desk.bodies[-1]["messages"][0]["content"][0]["image_url"]["url"]
    assert image.startswith("data:image/png;base64,") and desk.bodies[-1]["model"] == "abc"
    again = ask_outside(EvaluateConfig(bootstrap=50), model, **asked)
    assert again.fingerprint == found.fingerprint and desk.asked - before == 16 - 5


def test_an_endpoint_is_compared_with_a_model_of_ones_own(made, alone, desk):
    where = ("--root", root_of(made), "--items", made.labelled.uri)
    line = psavlm("compare", made.base.uri, desk.address, *where)
    assert line["new"]["name"] == "abc" and line["new"]["answers"].startswith("evaluate_endpoint/")
    assert line["n"] == 16 and line["old"]["answers"].startswith("evaluate/")


def test_both_models_are_asked_the_presets_benchmarks(made, alone):
    data = Path(__file__).parent / "data" / "xstest"
    table = f'[[benchmarks]]\nname = "xstest"\ndata = "{data}"\nlimit = 6\nmax_new_tokens = 2\n'
    with Path("short.toml").open("a") as preset:
        preset.write(table)
    where = ("--root", root_of(made), "--items", made.labelled.uri)
    with served(lambda text: "i cannot do that .") as model:
        line = psavlm("compare", made.base.uri, model.address("abc"), *where)
    (entry,) = line["benchmarks"]
    assert entry["name"] == "xstest" and list(entry["arms"]) == ["old", "new"]
    measure = entry["differences"]["benign_refused"]
    assert "xstest benign refused" in line["price"] and f"n = {measure['n']}" in line["price"]
    page = as_markdown(document(Comparison.model_validate(line)))
    assert "## Benchmark xstest" in page and "| benign refused | " in page


def test_where_nothing_tells_of_ability_the_price_says_so():
    assert "Of general ability nothing is known" in abilities([], [])
    grade = {"value": 5.0, "n": 4, "low": 4.0, "high": 6.0, "method": "bootstrap_by_image"}
    told = {
        "name": "politics",
        "measures": [
            {"name": "mean_score", "arms": {"old": grade, "new": {**grade, "value": 7.0}}}
        ],
        "differences": {"mean_score": {**grade, "value": 2.0, "low": 1.5, "high": 2.5}},
    }
    assert "politics mean score 5.00 before, 7.00 now, +2.00 [+1.50," in abilities([], [told])


def test_what_an_endpoints_filter_withholds_is_a_refusal_that_can_be_seen(made, alone):
    """Item 50 is the first risky one, 65 the last benign one; a filter stands before both."""
    store = Store(root_of(made))
    withheld = {"50": FILTERED_PROMPT, "65": completion("", finish_reason="content_filter")}
    where = ("--root", store.root, "--items", made.labelled.uri)
    with served(lambda text: withheld.get(text.split()[2], "two")) as model:
        line = psavlm("compare", made.base.uri, model.address("screened"), *where)
        assert len(model.bodies) == 16
    assert line["new"]["filtered"] == 2 and "filtered" not in line["old"]
    assert [rate["new"]["value"] for rate in line["rates"][:2]] == [7 / 8, 1 / 8]
    answers = store.local(open_artifact(f"{store.root}/{line['new']['answers']}"))
    rows = pq.read_table(answers / ITEMS).select(["outcome", "fault"]).to_pylist()
    assert [row for row in rows if row["fault"]] == [
        {"outcome": "refused", "fault": "content_filter"}
    ] * 2
    told = Comparison.model_validate(line)
    assert "2 answers of screened were withheld" in as_markdown(document(told))


def test_items_without_an_answer_are_left_out_and_told_and_asked_again(made, alone, monkeypatch):
    """Item 50 is the first risky one, 65 the last benign one."""
    monkeypatch.setattr(outside, "MOST_FAULTS", 0.2)
    where = ("--root", root_of(made), "--items", made.labelled.uri)
    said = {"50": 400, "65": completion("", finish_reason="length")}
    with served(lambda text: said.get(text.split()[2], "two")) as model:
        names = (made.base.uri, model.address("moody"))
        line = psavlm("compare", *names, *where)
        assert (line["n"], line["new"]["unanswered"], "unanswered" in line["old"]) == (14, 2, False)
        assert [rate["n"] for rate in line["rates"][:2]] == [7, 7]
        assert sum(change["n"] for change in line["changes"]) == 14
        told = "moody has no answer to 2 items"
        assert told in as_markdown(document(Comparison.model_validate(line)))
        report = read_report(
            open_artifact(f"{root_of(made)}/{line['new']['answers']}"), store=Store(root_of(made))
        )
        assert report.metrics["risky_obeyed"].n == 7
        said.clear()
        shown = CliRunner().invoke(
            application(), ["compare", *names, *where, "--preset", "short.toml"],
            catch_exceptions=False,
        )  # fmt: skip
        assert "moody has no answer to 1 items" in shown.stdout
        assert len(model.bodies) == 16 + 1  # the one that was declined
        again = psavlm("compare", *names, *where)
        assert (again["n"], len(model.bodies)) == (15, 17)


def test_items_that_a_side_has_learnt_from_make_nobody_safer(made, alone):
    """The eight risky ones are 50 to 57: the old model obeys them all, the new one none."""
    store = Store(root_of(made))
    rows = [row for row in item_rows() if row["split"] == "test"]
    told = [{"sample_id": row["sample_id"], "text": "sorry , i cannot"} for row in rows]
    Path("theirs.jsonl").write_text("\n".join(map(json.dumps, told)))
    where = ("--root", store.root, "--items", made.labelled.uri)

    def said(*keys: int) -> dict:
        snapshot = seen_before(made, keys)
        return psavlm("compare", taught(made, snapshot).uri, "answers:theirs.jsonl", *where)

    fresh, stale = said(90), said(*range(50, 55))
    assert (fresh["verdict"], fresh["n"], fresh["old"]["learnt"]) == ("safer", 16, 0)
    assert (stale["verdict"], stale["n"], stale["old"]["learnt"]) == ("not shown", 11, 5)
    assert fresh["new"]["learnt"] is None
    text = as_markdown(document(Comparison.model_validate(stale)))
    assert "was trained on 5 of the items, or on images of theirs: they are left out" in text
    assert "What given answers was trained on is not known." in text
    with pytest.raises(DataError, match=r"none of 16 items was answered by both .*--items"):
        said(*range(50, 66))


def seen_before(made, keys) -> Artifact:
    """Another snapshot, in whose training split are these images under other ids."""

    def build(folder: Path) -> dict[str, int]:
        own = [row for row in item_rows() if int(row["source_key"]) in keys]
        rows = [{**row, "split": "train", "sample_id": "0" * 62 + row["source_key"]} for row in own]
        write_parts(pa.Table.from_pylist(rows, ROWS), folder / "rows")
        return {}

    parents = {"samples": made.samples}
    config = {"keys": list(keys)}
    return Store(root_of(made)).artifact("validate", 1, config=config, parents=parents, build=build)


def taught(made, snapshot: Artifact) -> Artifact:
    """The second stage, by a manifest that names another snapshot."""
    store = Store(root_of(made))

    def build(folder: Path) -> dict[str, int]:
        shutil.copytree(store.local(made.stage2), folder, dirs_exist_ok=True)
        return {}

    parents = {"base": made.base, "labelled": snapshot}
    return store.artifact("stage2", 1, config={}, parents=parents, build=build)


def test_answers_from_a_file_are_compared_by_sample_id(made, alone):
    store = Store(root_of(made))
    rows = [row for row in item_rows() if row["split"] == "test"]
    lines = [{"sample_id": row["sample_id"], "text": "sorry , i cannot"} for row in rows]
    where = ("--root", store.root, "--items", made.labelled.uri)
    Path("theirs.jsonl").write_text("\n".join(map(json.dumps, reversed(lines))))
    line = psavlm("compare", made.base.uri, "answers:theirs.jsonl", *where)
    assert line["new"]["name"] == "given answers" and line["n"] == 16
    assert line["new"]["answers"].startswith("evaluate_answers/")
    assert {change["new"] for change in line["changes"]} == {"refused"}
    Path("theirs.jsonl").write_text("\n".join(map(json.dumps, lines[1:])))
    with pytest.raises(DataError, match=r"no answer to 1 of 16 questions \(not_in_file\)"):
        psavlm("compare", made.base.uri, "answers:theirs.jsonl", *where)
    with pytest.raises(DataError, match="'gone.jsonl' does not exist"):
        psavlm("compare", made.base.uri, "answers:gone.jsonl", *where)
