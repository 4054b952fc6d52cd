"""The audit: labels that were turned on purpose rank first; nothing is shown that must not be.

The pictures are grey noise with one to three coloured squares: the colour is the risk type, the
number the level; a clean one has a white square. Some labels are another's.
"""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from flows.cli.main import main
from flows.line import pipeline, plainly, up_to
from flows.parameters import configured
from infra.parts import read_parts, write_parts
from infra.store import Store
from model.backbone import Backbone
from model.calibration import fit_policy
from model.checkpoint import CARD, BaseReference, ModelCard, load_card, save_model
from model.psavlm import PsaVlm
from model.stages import freeze_for
from model.steps import new_optimizer, train_step
from schemas.artifact import Artifact
from schemas.audit import DISPUTED
from schemas.config import AuditConfig, PartConfig, PipelineConfig, Stage
from schemas.errors import ConfigError, DataError
from schemas.hints import load_hints
from schemas.samples import ROWS
from schemas.taxonomy import load_taxonomy
from tasks.audit import AuditInputs, audit, read_audit
from tasks.audit.rows import check_labels, with_one_image
from tasks.audit.score import Seen, by_source, dispute, ranked
from tasks.audit.sheet import GAP, HEAD, contact_sheet, most_disputed
from tasks.encode import FeatureCache
from tasks.report.pictures import SIDE
from tasks.sources import parse_source
from tasks.train import Inputs, train
from tasks.train.data import to_items
from tests.small_run import row as labelled_row
from tests.small_run import small_base
from tests.squares import COLOURS, squares

torch.set_num_threads(1)
TAXONOMY = load_taxonomy()
TYPES = TAXONOMY.type_ids
KINDS = [*TYPES[:-1], *["clean"] * 6]
COUNT, EVERY = 480, 22  # pictures; of so many one has a turned label, all of odd numbers
SPLITS = ["train"] * 6 + ["calibration", "test"]
STEPS, BATCH = 300, 48


# --- a snapshot with turned labels, and a head that was trained on it for some seconds ---


def truth(number: int) -> tuple[str, int]:
    kind = KINDS[number % len(KINDS)]
    return kind, 0 if kind == "clean" else 1 + number % 3


def turned(number: int) -> bool:
    return number % EVERY == 7


def stated(number: int) -> tuple[str, int]:
    """The label in the table."""
    kind, level = truth(number)
    if not turned(number):
        return kind, level
    other = TYPES[(TYPES.index(kind) + 1 + number % 5) % len(TYPES)]
    return other, 0 if other == "clean" else 1 + number % 3


def picture(number: int) -> Image.Image:
    """A picture that tells the true label."""
    kind, level = truth(number)
    colour = "white" if kind == "clean" else COLOURS[TYPES.index(kind)]
    return squares(number, colour=colour, count=max(level, 1))


def tables(folder: Path) -> list[str]:
    """Two sources, as people type them: even and odd pictures."""
    (folder / "pictures").mkdir(parents=True)
    for name, first in (("even", 0), ("odd", 1)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "question", "answer", "type", "level", "split"])
            for number in range(first, COUNT, 2):
                picture(number).save(folder / "pictures" / f"{number}.png")
                asked = ["what is this ?", "how many squares are there ?"][number % 3 // 2]
                answer = "sorry , no" if stated(number)[1] else "a square"
                split = SPLITS[number // len(KINDS) % len(SPLITS)]
                rows.writerow([f"{number}.png", asked, answer, *stated(number), split])
    images = f"images={folder}/pictures"
    return [f"format=table,uri={folder}/{name}.csv,{images}" for name in ("even", "odd")]


@dataclass(frozen=True)
class Run:
    store: Store
    config: PipelineConfig
    inputs: AuditInputs
    options: tuple[str, ...]  # of the command, for this snapshot
    base: str


class HandTrained(Store):
    """A store in which a stage of `train` is built by the test, not on a Ray cluster."""

    def artifact(self, step, version, *, build, **ingredients) -> Artifact:
        return super().artifact(
            step, version, **ingredients, build=lambda folder: head(self, folder, ingredients)
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """What `psavlm stage1` leaves behind, but for the trained tokens."""
    folder = tmp_path_factory.mktemp("audit")
    store, sources = Store(str(folder / "store")), tables(folder / "data")
    base = str(store.local(small_base(store)) / "model")
    config = configured(
        {
            "sources": tuple(map(parse_source, sources)),
            "base": base,
            "clean_per_unsafe": 0.5,
        }
    )
    made = up_to(pipeline(config, store=store, do=plainly), "encode")
    names = {"base": "base", "balanced": "balance", "features": "encode", "labelled": "validate"}
    inputs = Inputs(**{role: made[name] for role, name in names.items()})
    model = train(config.stage1, inputs, store=HandTrained(store.root))
    looked_at = AuditInputs(
        samples=made["ingest"], labelled=made["validate"], features=made["encode"], model=model
    )
    options = ("--root", store.root, *(word for text in sources for word in ("--source", text)))
    return Run(store, config, looked_at, options, base)


def head(store: Store, folder: Path, ingredients: dict) -> dict[str, int]:
    """The concept part of stage 1 on the training split, turned labels and all."""
    stage, made = ingredients["config"], ingredients["parents"]
    backbone = Backbone.load(str(store.local(made["base"]) / "model"))
    model = PsaVlm.new(backbone, stage.method, types=len(TYPES), levels=4)
    names = freeze_for(model, Stage.CONCEPTS, "concept")
    part = PartConfig(steps=STEPS, global_batch=BATCH, lr=3e-3, warmup_steps=10)
    optimizer = new_optimizer([model.get_parameter(name) for name in names], part)
    rows = read_parts(store.local(made["labelled"]) / "rows", ROWS).to_pylist()
    items = {s: to_items([r for r in rows if r["split"] == s], TAXONOMY) for s in SPLITS}
    cache, draw = FeatureCache(made["features"]), np.random.default_rng(0)
    model.train()
    for step in range(STEPS):
        batch = [items["train"][i] for i in draw.choice(len(items["train"]), BATCH)]
        loss = model.concept_batch_loss(*asked(batch, cache), *classes(batch))
        train_step(loss, optimizer, step=step, part=part)
    held_out = items["calibration"]
    with torch.no_grad():
        logits = model.eval().concept_logits(*asked(held_out, cache))
    save_model(
        folder / "model",
        model,
        stage=Stage.CONCEPTS,
        method=stage.method,
        taxonomy=TAXONOMY,
        hints=load_hints("default", taxonomy=TAXONOMY),
        base=BaseReference(name="base"),
        policy=fit_policy(*logits, *classes(held_out), false_positive_budget=0.1),
    )
    return {"steps": STEPS}


def asked(items: list, cache: FeatureCache) -> tuple[torch.Tensor, list[str]]:
    return cache.batch([item.image_id for item in items]), [item.question for item in items]


def classes(items: list) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.tensor([(item.risk_type, item.risk_level) for item in items])
    return pairs[:, 0], pairs[:, 1]


@pytest.fixture(scope="module")
def made(run) -> tuple[Artifact, Path]:
    artifact = audit(AuditConfig(images=20, margin=1.0), run.inputs, store=run.store)
    return artifact, run.store.local(artifact)


def number_of(row: dict) -> int:
    """The number of a row's picture, from its place in its table."""
    name, place = row["source_key"].split(":")
    return 2 * (int(place) - 1) + (name == "odd.csv")


WRONG = {number for number in range(COUNT) if turned(number)}


# --- what it finds ---


def test_turned_labels_rank_first_and_what_is_seen_is_their_true_type(made):
    found = pq.read_table(made[1] / "disputed.parquet")
    assert found.schema.equals(DISPUTED)
    first = found.slice(0, len(WRONG)).to_pylist()
    assert len(WRONG & {number_of(row) for row in first}) >= 0.8 * len(WRONG)
    right = [row["seen_type"] == truth(number_of(row))[0] for row in first]
    assert sum(right) >= 0.8 * len(WRONG)
    assert all((row["risk_type"], row["risk_level"]) == stated(number_of(row)) for row in first)
    assert {row["split"] for row in first} == set(SPLITS)


def test_the_dispute_is_the_log_odds_of_what_is_seen_and_orders_the_rows(made):
    rows = pq.read_table(made[1] / "disputed.parquet").to_pylist()
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    keys = [(-row["dispute"], -row["level_dispute"], row["sample_id"]) for row in rows]
    assert keys == sorted(keys)
    for row in rows:
        odds = np.log(row["seen_probability"] / row["stated_probability"])
        assert row["dispute"] == pytest.approx(odds, abs=1e-9)
        assert (row["seen_type"] == row["risk_type"]) == (row["dispute"] == 0)
        assert (row["seen_level"] == row["risk_level"]) == (row["level_dispute"] == 0)
        assert max(row["dispute"], row["level_dispute"]) > 0


def test_the_temperature_is_that_of_the_models_policy(run, made):
    """The log-odds of the head's logits, times the temperature, are those of the file."""
    policy = load_card(run.store.local(run.inputs.model) / "model").policy
    assert policy.temperature_type != 1.0
    row = pq.read_table(made[1] / "disputed.parquet").slice(0, 1).to_pylist()[0]
    config = AuditConfig(margin=row["dispute"] - 1e-6)
    assert audit(config, run.inputs, store=run.store).counts["disputed"] == 1
    hot = _with_card(run, "hot", policy={**policy.model_dump(), "temperature_type": 10.0})
    inputs = AuditInputs(**{**dict(run.inputs), "model": hot})
    cooler = run.store.local(audit(AuditConfig(), inputs, store=run.store))
    rows = pq.read_table(cooler / "disputed.parquet").to_pylist()
    (same,) = [other for other in rows if other["sample_id"] == row["sample_id"]]
    ratio = policy.temperature_type / 10.0
    assert same["dispute"] == pytest.approx(row["dispute"] * ratio, rel=1e-5)


def _with_card(run: Run, name: str, **changes) -> Artifact:
    """The same model with another card."""

    def build(folder: Path) -> dict[str, int]:
        (folder / "model").mkdir()
        for file in (run.store.local(run.inputs.model) / "model").iterdir():
            (folder / "model" / file.name).write_bytes(file.read_bytes())
        card = load_card(folder / "model").model_dump(mode="json")
        text = ModelCard.model_validate({**card, **changes}).model_dump_json()
        (folder / "model" / CARD).write_text(text)
        return {}

    base = up_to(pipeline(run.config, store=run.store, do=plainly), "base")["base"]
    return run.store.artifact(
        "stage1", 1, config={"card": name}, parents={"base": base}, build=build
    )


def test_each_source_is_counted_by_what_is_stated_and_seen(run, made):
    artifact, folder = made
    report = read_audit(artifact, store=run.store)
    even, odd = report.sources
    assert [(s.source, s.rows) for s in report.sources] == [("table-even", 240), ("table-odd", 240)]
    # All turned labels have odd numbers.
    assert even.disputed == 0 and len(WRONG) >= odd.disputed >= 0.7 * len(WRONG)
    rows = pq.read_table(folder / "disputed.parquet").to_pylist()
    for source in report.sources:
        found = [(r["risk_type"], r["seen_type"]) for r in rows
                 if r["source"] == source.source and r["dispute"] >= report.margin]  # fmt: skip
        assert {(k.stated, k.seen): k.rows for k in source.kinds} == Counter(found)
    assert sum(kind.rows for kind in odd.kinds) == odd.disputed
    assert [k.rows for k in odd.kinds] == sorted((k.rows for k in odd.kinds), reverse=True)
    assert artifact.counts == {
        "in": COUNT,
        "looked_at": COUNT,
        "left_out": 0,
        "disputed": even.disputed + odd.disputed,
        "level_disputed": even.level_disputed + odd.level_disputed,
    }


def test_only_the_splits_that_are_asked_for_are_looked_at(run):
    artifact = audit(AuditConfig(splits=("test",)), run.inputs, store=run.store)
    assert artifact.counts["in"] == COUNT // len(SPLITS)
    rows = pq.read_table(run.store.local(artifact) / "disputed.parquet")
    assert set(rows["split"].to_pylist()) == {"test"}


# --- scores by hand ---


def test_classes_seen_and_their_log_odds():
    logs = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]])
    seen, odds = dispute(logs, np.array([1, 1, 0]))
    assert seen.tolist() == [0, 1, 2]
    assert odds == pytest.approx([np.log(3.5), 0.0, np.log(2.0)])


def test_types_rank_before_levels_and_rows_in_agreement_are_left_out():
    rows = pa.table(
        {
            "sample_id": ["a", "b", "c", "d"],
            "source": ["s", "s", "t", "s"],
            "source_key": ["1", "2", "3", "4"],
            "split": ["train"] * 4,
            "risk_type": ["clean", "privacy", "privacy", "insults"],
            "risk_level": pa.array([0, 3, 3, 1], pa.int8()),
            "image_id": ["w", "x", "y", "z"],
        }
    )
    types, levels = np.full((4, 7), 1e-3), np.full((4, 4), 1e-3)
    for number, (name, level) in enumerate(
        [("privacy", 2), ("privacy", 3), ("privacy", 1), ("insults", 3)]
    ):
        types[number, TYPES.index(name)] = levels[number, level] = 0.9
    levels[3, 3] = 0.5
    found = ranked(rows, Seen(np.log(types), np.log(levels)), TAXONOMY)
    assert found["sample_id"].to_pylist() == ["a", "c", "d"]
    assert found["dispute"].to_pylist() == pytest.approx([np.log(900), 0, 0])
    assert found["level_dispute"].to_pylist() == pytest.approx(np.log([900, 900, 500]))
    assert found["seen_level"].to_pylist() == [2, 1, 3]
    of_s, of_t = by_source(rows, found, margin=6.5)
    assert (of_s.rows, of_s.disputed, of_s.level_disputed) == (3, 1, 0)
    assert (of_t.rows, of_t.disputed, of_t.level_disputed) == (1, 0, 1)
    of_s, of_t = by_source(rows, found, margin=0)
    assert (of_s.disputed, of_s.level_disputed, of_t.level_disputed) == (1, 1, 1)


def test_rows_without_one_encoded_image_are_left_out_and_counted(tmp_path):
    rows = [labelled_row(number, "train", "clean", 0) for number in range(6)]
    rows[0]["image_ids"] = []
    rows[1]["image_ids"] = [*rows[2]["image_ids"], *rows[3]["image_ids"]]
    rows[5]["split"] = "test"
    (tmp_path / "labelled").mkdir()
    write_parts(pa.Table.from_pylist(rows, ROWS), tmp_path / "labelled" / "rows")
    encoded = pa.array([rows[n]["image_ids"][0] for n in (2, 3, 5)])
    found, left_out = with_one_image(tmp_path / "labelled", encoded, splits=("train",))
    images = dict(zip(*(found[n].to_pylist() for n in ("source_key", "image_id")), strict=True))
    assert images == {str(n): rows[n]["image_ids"][0] for n in (2, 3)}
    assert left_out == {"no_image": 1, "several_images": 1, "not_encoded": 1}


# --- what it shows ---


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def test_the_sheet_shows_the_most_disputed_and_is_blurred_unless_asked(run, made):
    rows = most_disputed(pq.read_table(made[1] / "disputed.parquet"), 20)
    hidden = pixels((made[1] / "sheet.png").read_bytes())
    artifact = audit(AuditConfig(images=20, blur=False), run.inputs, store=run.store)
    shown = pixels((run.store.local(artifact) / "sheet.png").read_bytes())
    assert shown.shape == hidden.shape
    for number, sheet in enumerate((shown, hidden)):
        first = sheet[HEAD : HEAD + SIDE, GAP : GAP + SIDE]
        own = np.asarray(picture(number_of(rows[0])).resize((SIDE, SIDE), 0), dtype=int)
        assert np.array_equal(first, own) == (number == 0)
        # Noise has steps from pixel to pixel; means over cells have none.
        assert (np.abs(np.diff(first, axis=0)).max() > 100) == (number == 0)


def test_an_image_that_is_asked_about_twice_is_shown_once(made):
    table = pq.read_table(made[1] / "disputed.parquet").slice(0, 4)
    twice = pa.concat_tables([table, table])
    assert [row["rank"] for row in most_disputed(twice, 9)] == [1, 2, 3, 4]
    assert [row["rank"] for row in most_disputed(twice, 3)] == [1, 2, 3]


def test_a_sheet_without_a_dispute_says_so(run):
    png = contact_sheet(DISPUTED.empty_table(), run.inputs.samples, count=9, blur=True)
    assert (pixels(png) < 128).any() and len(pixels(png)) < SIDE


# --- what it refuses ---


def test_a_model_of_another_taxonomy_is_refused(run):
    card = load_card(run.store.local(run.inputs.model) / "model").taxonomy.model_dump()
    types = [{**kind, "id": kind["id"].replace("privacy", "storms")} for kind in card["types"]]
    other = _with_card(run, "storms", taxonomy={**card, "name": "weather", "types": types})
    inputs = AuditInputs(**{**dict(run.inputs), "model": other})
    with pytest.raises(ConfigError, match="'weather' has the types .*storms.*'psa-vlm'"):
        audit(AuditConfig(), inputs, store=run.store)


@pytest.mark.parametrize(
    ("kind", "level", "words"),
    [("storms", 1, r"types \['storms'\] and levels \[\]"),
     ("privacy", 4, r"types \[\] and levels \[4\]")],
)  # fmt: skip
def test_labels_of_another_taxonomy_are_refused(kind, level, words):
    rows = pa.table({"risk_type": ["clean", kind], "risk_level": [0, level]})
    with pytest.raises(ConfigError, match=f"{words} that taxonomy 'psa-vlm' has not"):
        check_labels(rows, TAXONOMY)


def test_a_snapshot_without_a_row_to_ask_about_is_refused(run):
    def build(folder: Path) -> dict[str, int]:
        rows = [
            {**labelled_row(number, "train", "clean", 0), "image_ids": []} for number in range(3)
        ]
        write_parts(pa.Table.from_pylist(rows, ROWS), folder / "rows")
        return {"accepted": 3}

    bare = run.store.artifact("validate", 1, config={"bare": True}, build=build)
    inputs = AuditInputs(**{**dict(run.inputs), "labelled": bare})
    with pytest.raises(DataError, match="no row .* one encoded image .*'no_image': 3"):
        audit(AuditConfig(), inputs, store=run.store)


# --- the command ---


@pytest.fixture
def psavlm(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["psavlm", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return (end.value.code or 0, *capsys.readouterr())

    return call


def test_the_command_audits_with_the_head_of_its_own_run(run, made, psavlm):
    code, out, told = psavlm(
        "audit", *run.options, "--base", run.base, "--clean-per-unsafe", "0.5", "--margin", "1",
        "--json",
    )  # fmt: skip
    line = json.loads(out)
    assert (code, line["step"]) == (0, "audit"), told
    # Nothing is trained or encoded: Ray would have said so.
    assert "cached" in next(text for text in told.splitlines() if text.startswith("stage1"))
    assert line["counts"] == made[0].counts
    manifest = run.store.manifest(Artifact(**line))
    assert manifest.parents["model"].endswith(run.inputs.model.fingerprint)
    assert manifest.config["blur"] is True  # of one's own images


def test_the_command_audits_with_a_model_that_is_given(run, psavlm):
    code, out, told = psavlm(
        "audit", *run.options, "--artifact", run.inputs.model.uri, "--split", "test",
        "--split", "calibration", "--margin", "1", "--images", "3", "--no-blur",
    )  # fmt: skip
    assert code == 0, told
    assert "stage1 " not in told  # it is given, not made
    assert "labels that stage1 disputes by a log-odds of 1" in out
    assert all(words in out for words in ("table-even", "table-odd", " → ", "sources.json"))
    (sheet,) = [text.split()[-1] for text in out.splitlines() if text.startswith("sheet")]
    assert Path(sheet).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--artifact", "x", "--model", "champion"), "give one of them"),
        (("--artifact", "{model}", "--base", "b", "--seed", "3"), "--base, --seed belong to"),
        (("--artifact", "{model}", "--split", "dev"), "splits.0 = 'dev'"),
        (("--margin", "-1"), "margin = -1.0"),
        (("--artifact", "{labelled}"), "step 'validate'; give one of stage1 or stage2"),
    ],
)
def test_the_command_refuses_in_one_line(run, psavlm, options, words):
    known = {"model": run.inputs.model.uri, "labelled": run.inputs.labelled.uri}
    code, out, told = psavlm("audit", *run.options, *(word.format(**known) for word in options))
    assert (code, out) == (2, "")
    assert told.splitlines()[-1].startswith("ConfigError: ") and words in told
