"""For people: the model card, the blinded review, and what comes back from it."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

from flows.cli.main import application
from infra.store import Store
from schemas.artifact import Artifact
from schemas.errors import ConfigError, DataError
from tasks.card.licences import rolled_up
from tasks.evaluate.step import ITEMS, REPORT
from tasks.review import ReviewConfig, export_review, reviewed
from tasks.review.export import SHEET, read_key
from tasks.review.votes import kappa
from tests.small_run import judged, small_run

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    return small_run(tmp_path_factory.mktemp("people") / "store")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("short.toml").write_text('extends = "tiny"\n[evaluate]\nmax_new_tokens = 2\n')
    return tmp_path


def store_of(made) -> Store:
    return Store(made.base.uri.rsplit("/", 2)[0])


def psavlm(*words: str) -> dict:
    told = CliRunner().invoke(application(), [*words, "--json"], catch_exceptions=False)
    return json.loads(told.stdout.splitlines()[-1])


# --- the card ---


def test_a_card_holds_numbers_with_n_and_interval_licences_and_its_own_command(made, alone):
    store = store_of(made)
    where = ("--items", made.labelled.uri, "--root", store.root, "--preset", "short.toml")
    line = psavlm("card", "--artifact", made.stage2.uri, "--out", "card.md", *where)
    text = Path("card.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["license"], line["license"]) == ("other", "other")
    assert head["pipeline_tag"] == "image-text-to-text"
    (result,) = head["model-index"][0]["results"]
    found = {metric["type"]: metric for metric in result["metrics"]}
    assert found["risky_obeyed"]["value"] == pytest.approx(
        line["metrics"]["risky_obeyed"], abs=1e-4
    )
    assert "n = 8, 95 % [" in found["risky_obeyed"]["name"]
    assert f"psavlm card --artifact $ROOT/stage2/{made.stage2.fingerprint}" in text
    assert "risky requests obeyed | lower | 8 |" in text
    assert store.root not in text and str(alone) not in text
    with pytest.raises(ConfigError, match="give a folder that psavlm export has written, or a new"):
        psavlm("card", "--artifact", made.stage2.uri, "--out", "card.md", *where)


def test_a_card_goes_into_the_folder_of_its_own_export_and_tells_how_to_use_it(made, alone):
    store = store_of(made)
    where = ("--items", made.labelled.uri, "--root", store.root, "--preset", "short.toml")
    psavlm("export", "--artifact", made.stage2.uri, "--merged", "out")
    psavlm("card", "--artifact", made.stage2.uri, "--out", "out", *where)
    text = Path("out/README.md").read_text()
    assert text.startswith("---\n") and "## Use" in text and "open_guarded" in text
    assert text.count("# A model aligned by psavlm") == 0
    with pytest.raises(ConfigError, match="export this one"):
        psavlm("card", "--artifact", made.stage1.uri, "--out", "out", *where)


def licence(name: str, *, closed: bool = False) -> dict:
    told = {"licence": name, "source": "s", "rows": 1, "images": 1}
    return {**told, "named": bool(name), "non_commercial": closed}


def test_licences_are_rolled_up_to_one_only_where_there_is_one():
    assert rolled_up([licence("CC-BY-4.0"), licence("CC-BY-4.0")]) == "cc-by-4.0"
    assert rolled_up([licence("CC-BY-4.0"), licence("CC-BY-NC-4.0", closed=True)]) == "other"
    assert rolled_up([licence("")]) == rolled_up([]) == "other"


def test_a_card_says_which_licences_forbid_commerce_and_which_rows_name_none(made, alone):
    """A model that says what it was trained on; its snapshot has both kinds."""
    from flows.cli.start import ready
    from flows.comparing import score_card
    from flows.line import plainly
    from tasks.card import write_card

    with ready("short.toml", store_of(made).root) as (config, store):
        asked = made.stage2.uri, "champion", made.labelled.uri, config
        scored = score_card(*asked, do=plainly, store=store)
    known = type(scored)(**{**vars(scored), "trained_on": made.labelled})
    write_card(known, Path("card.md"), preset="short.toml")
    text = Path("card.md").read_text()
    assert "forbids commercial use (CC-BY-NC-4.0)" in text and "names no licence" in text
    assert "# psavlm champion" in text and "| none named | signs | 18 | 18 |" in text


# --- the review ---


def answers(made, side: str, *, says: str = "={side} of {number}") -> Artifact:
    """Judged rows of 16 items; the models differ in all but the first two."""
    store = store_of(made)

    def build(folder: Path) -> dict[str, int]:
        rows = judged("stage2")
        for number, row in enumerate(rows):
            row["answer"] = "the same" if number < 2 else says.format(side=side, number=number)
        pq.write_table(pa.Table.from_pylist(rows), folder / ITEMS)
        (folder / REPORT).write_text("{}")
        return {"items": len(rows)}

    return store.artifact("evaluate", 1, config={"side": side}, build=build)


@pytest.fixture
def review(made, alone) -> Path:
    """A review of all that differs; returns its key."""
    export(made, alone, ReviewConfig(count=50))
    return alone / "key.json"


def export(made, folder: Path, config: ReviewConfig) -> dict:
    both = (answers(made, "old"), answers(made, "new"))
    return export_review(
        config, ("3", "4"), both, made.samples, out=folder / "out", key=folder / "key.json"
    )


def sheet(folder: Path) -> list[dict[str, str]]:
    with (folder / "out" / SHEET).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def filled(folder: Path, name: str, choose) -> Path:
    """A reviewer's sheet: what `choose` says of each item's row."""
    rows = [{**row, "better": choose(row)} for row in sheet(folder)]
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def test_what_reviewers_get_does_not_say_whose_an_answer_is(review, alone):
    rows, key = sheet(alone), read_key(review)
    assert len(rows) == 14 and {row["better"] for row in rows} == {""}
    # The answers name their side here, and the key is right about all of them.
    assert all(row["answer_a"].startswith(f"'={key.items[row['item']]['a']}") for row in rows)
    assert {"old", "new"} == {one["a"] for one in key.items.values()}
    assert sorted(path.name for path in (alone / "out").iterdir()) == ["review.csv", "review.html"]
    page = (alone / "out" / "review.html").read_text()
    assert key.secret not in page and "http" not in page and page.count("data:image/png") == 14


def test_a_model_that_gave_no_answer_leaves_no_empty_cell(made, alone):
    both = (answers(made, "old"), answers(made, "silent", says=""))
    config = ReviewConfig(count=14)
    export_review(config, ("3", "4"), both, made.samples, out=alone / "out", key=alone / "key.json")
    cells = [{row["answer_a"], row["answer_b"]} for row in sheet(alone)]
    assert len(cells) == 14 and all("(no answer)" in pair and "" not in pair for pair in cells)
    assert (alone / "out" / "review.html").read_text().count("(no answer)") == 14


def test_another_review_of_the_same_items_has_other_sides(made, alone):
    sides = []
    for name in ("first", "second"):
        (alone / name).mkdir()
        export(made, alone / name, ReviewConfig(count=14))
        key = read_key(alone / name / "key.json")
        sides.append({one["sample_id"]: one["a"] for one in key.items.values()})
    assert sides[0] != sides[1]


def test_a_key_among_the_reviewers_files_or_over_another_is_refused(made, alone):
    both = (answers(made, "old"), answers(made, "new"))
    given = (ReviewConfig(), ("3", "4"), both, made.samples)
    with pytest.raises(ConfigError, match="lies in --out"):
        export_review(*given, out=alone / "out", key=alone / "out" / "key.json")
    export(made, alone, ReviewConfig())
    with pytest.raises(ConfigError, match="--out .* exists already"):
        export_review(*given, out=alone / "out", key=alone / "other.json")
    same = (both[0], both[0])
    with pytest.raises(DataError, match="answer every item alike"):
        export_review(*given[:2], same, made.samples, out=alone / "o", key=alone / "k")


def prefers(side: str, *, but: int = 0):
    """Always this side, as its answers show it; but the last items are ties."""

    def choose(row: dict[str, str]) -> str:
        if int(row["item"][1:]) > 14 - but:
            return "tie"
        return "A" if row["answer_a"].startswith(f"'={side}") else "b "

    return choose


def test_reviewers_who_agree_decide_and_the_test_is_the_sign_test(review, alone):
    sheets = [filled(alone, f"{n}.csv", prefers("new", but=n)) for n in (0, 2)]
    found = reviewed(review, sheets)
    assert (found.new_better, found.old_better, found.ties) == (14, 0, 0)
    assert found.p == pytest.approx(2 / 2**14) and found.low > 0
    assert found.agreement == pytest.approx(12 / 14) and found.judged_twice == 14
    assert found.reviewers == {
        "0.csv": {"new": 14, "old": 0, "tie": 0},
        "2.csv": {"new": 12, "old": 0, "tie": 2},
    }
    line = psavlm("reviewed", str(review), *map(str, sheets))
    assert line["new_better"] == 14 and line["new"] == "4"


def test_reviewers_who_contradict_each_other_decide_nothing(review, alone):
    sheets = [filled(alone, f"{side}.csv", prefers(side)) for side in ("new", "old")]
    found = reviewed(review, sheets)
    assert (found.new_better, found.old_better, found.ties, found.p) == (0, 0, 14, 1.0)
    assert found.agreement == 0.0


@pytest.mark.parametrize(
    ("word", "told"),
    [("c", "line 2: better = 'c'; a, b, tie or nothing"), ("", "nobody has judged anything")],
)
def test_a_sheet_that_says_something_else_is_told_with_its_line(review, alone, word, told):
    with pytest.raises(DataError, match=told):
        reviewed(review, [filled(alone, "x.csv", lambda row: word)])


def test_a_sheet_of_another_review_or_no_key_at_all_is_refused(review, alone):
    strange = filled(alone, "x.csv", lambda row: "a")
    strange.write_text(strange.read_text().replace("r001", "r999"))
    with pytest.raises(DataError, match="'r999' is no item of this review"):
        reviewed(review, [strange])
    with pytest.raises(ConfigError, match="is no key of a review"):
        reviewed(strange, [strange])


def test_kappa_is_cohens():
    """50 pairs by hand: 35 agree, 25 would by chance: (0.7 - 0.5) / (1 - 0.5)."""
    both = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert kappa(both) == pytest.approx(0.4)
    assert kappa([("a", "a")] * 5) is None and kappa([]) is None


def test_the_command_writes_a_review_of_two_models(made, alone):
    store = store_of(made)
    line = psavlm(
        "review", made.base.uri, made.stage2.uri, "--out", "out", "--key", "key.json",
        "--items", made.labelled.uri, "--root", store.root, "--preset", "short.toml",
    )  # fmt: skip
    assert line["items"] == line["differ"] > 0
    assert read_key(Path("key.json")).new == f"stage2 {made.stage2.fingerprint[:10]}"
