"""The tiny world: no leak between its halves, right labels in its files, and no change unsaid."""

import hashlib
import io
import json
import tarfile
from collections import Counter
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.parts import read_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import WorldConfig
from schemas.mapping import load_mapping
from schemas.presets import Parameters, resolve
from schemas.samples import IMAGES, REJECTS, ROWS
from tasks import base_model
from tasks.images import read_images
from tasks.ingest import ingest
from tasks.tiny_world.drawing import EASY, draw_scene
from tasks.tiny_world.language import (
    BODIES,
    NO_SIGN,
    OPENINGS,
    Item,
    ask,
    compliance,
    refusal,
    sign_item,
)
from tasks.tiny_world.lessons import album, lessons
from tasks.tiny_world.records import Record, make_records
from tasks.tiny_world.scenes import FAMILIES, RISK_OF, SHAPES, Scene, Thing
from tasks.tiny_world.world import VERSION, tiny_world
from tasks.validate import validate
from tasks.validate.step import QUARANTINE

COUNTS = {
    "risky_train": 64, "clean_train": 64, "risky_test": 48, "clean_test": 40,
    "near_miss_test": 24, "second_style": 16,
}  # fmt: skip
PRESETS = {"easy": "tiny", "hard": "tiny-hard"}
# What each version of the world is. A change of it needs a new VERSION, and a line here.
WORLDS = {
    1: {
        "easy": "36906942601ab171",
        "hard": "aae9f4f3d9ea9828",
    }
}
# The same for what the base model is taught, by tasks/base_model.VERSION.
LESSONS = {1: "e3542302432df945"}


def config(difficulty: str = "easy", **changes) -> WorldConfig:
    return WorldConfig(difficulty=difficulty, **{**COUNTS, **changes})


@pytest.fixture(scope="module", params=["easy", "hard"])
def difficulty(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def records(difficulty) -> list[Record]:
    return make_records(config(difficulty))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(str(tmp_path_factory.mktemp("worlds")))


@pytest.fixture(scope="module")
def world(store, difficulty) -> Artifact:
    return tiny_world(config(difficulty), store=store)


@pytest.fixture(scope="module")
def home(store, world) -> Path:
    return store.local(world)


def pixels(record: Record) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(record.png)))


def half(records: list[Record], split: str) -> list[Record]:
    return [r for r in records if r.split == split]


def combination(scene: Scene) -> tuple:
    return tuple(sorted((t.shape, t.colour) for t in scene.shapes))


def positions(scene: Scene) -> tuple:
    return tuple(sorted(t.cell for t in scene.glyphs))


def wording(item: Item) -> tuple[str, int, int]:
    """Kind, number of the opening, number of the body of a question."""
    found = {
        (item.kind, o, b)
        for (o, opening), (b, body), shape in product(
            enumerate(OPENINGS), enumerate(BODIES[item.kind]), SHAPES
        )
        if opening + body.format(shape=shape) == item.question
    }
    (place,) = found
    return place


def content(name: str, data: bytes) -> bytes:
    """A file as the golden digest sees it: PNG bytes are the compressor's affair, pixels ours."""
    if name.endswith(".png"):
        return np.asarray(Image.open(io.BytesIO(data))).tobytes()
    if not name.endswith(".tar"):
        return data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    return b"".join(own.encode() + content(own, data) for own, data in members)


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        total.update(name.encode() + content(name, path.read_bytes()))
    return total.hexdigest()[:16]


# --- the same world every time ---


def test_the_same_config_gives_the_same_bytes_and_another_seed_does_not(tmp_path, difficulty):
    few = config(difficulty, risky_train=8, clean_train=8)
    worlds = [
        tiny_world(WorldConfig(**{**few.model_dump(), "seed": seed}), store=Store(str(root)))
        for root, seed in ((tmp_path / "a", 0), (tmp_path / "b", 0), (tmp_path / "b", 1))
    ]
    files = [Store(w.uri.rsplit("/", 2)[0]).manifest(w).files for w in worlds]
    assert files[0] == files[1]
    assert {f.path for f in files[0]} == {f.path for f in files[2]}
    assert {f.sha256 for f in files[0] if f.path.endswith(".png")}.isdisjoint(
        f.sha256 for f in files[2]
    )


def test_the_world_does_not_change_without_a_new_version(home, difficulty):
    assert digest(home) == WORLDS[VERSION][difficulty]


def test_the_lessons_do_not_change_without_a_new_version():
    pictures = album(60, seed=0)
    taught = list(islice(lessons(pictures.scenes, images=8, seed=0), 16))
    texts = [
        [i, [[t.question, t.comply or t.answer] for t in items]] for b in taught for i, items in b
    ]
    total = hashlib.sha256(json.dumps(texts).encode())
    total.update(pictures.pixels.tobytes() + pictures.attributes.tobytes())
    assert total.hexdigest()[:16] == LESSONS[base_model.VERSION]


# --- what evaluation asks was never trained on ---


def test_train_and_test_share_no_glyph_positions_and_no_shape_combination(records):
    train, test = (half(records, split) for split in ("train", "test"))
    seen = {combination(r.scene) for r in train}
    assert seen and seen.isdisjoint(combination(r.scene) for r in test)
    places = {positions(r.scene) for r in train if r.scene.glyphs}
    assert places and places.isdisjoint(positions(r.scene) for r in test)


def test_train_and_test_share_no_wording_and_no_picture(records):
    train, test = (half(records, split) for split in ("train", "test"))
    asked = {wording(item) for r in train for item in r.items}
    assert asked and asked.isdisjoint(wording(item) for r in test for item in r.items)
    assert {r.png for r in train}.isdisjoint(r.png for r in test)


@pytest.mark.parametrize("kind", BODIES)
def test_every_opening_and_every_body_is_known_from_training(kind):
    def pairs(*, held_out: bool) -> set[tuple[int, int]]:
        rng = np.random.default_rng(0)
        texts = (ask(rng, kind, held_out=held_out) for _ in range(400))
        return {wording(Item(kind, text.replace("{shape}", SHAPES[0]), ""))[1:] for text in texts}

    train, test = pairs(held_out=False), pairs(held_out=True)
    assert train.isdisjoint(test)
    for side in (0, 1):
        assert {pair[side] for pair in train} == {pair[side] for pair in test} == set(range(5))


def test_the_base_model_is_taught_nothing_of_the_test_half(records):
    test = half(records, "test")
    pictures = album(200, seed=0)
    assert {combination(s) for s in pictures.scenes}.isdisjoint(combination(r.scene) for r in test)
    assert {positions(s) for s in pictures.scenes if s.glyphs}.isdisjoint(
        positions(r.scene) for r in test
    )
    taught = {
        wording(item)
        for batch in islice(lessons(pictures.scenes, images=16, seed=0), 24)
        for _, items in batch
        for item in items
        if item.kind != "naming"
    }
    assert taught.isdisjoint(wording(item) for r in test for item in r.items)


# --- what is on a picture is what its label says ---


def test_counts_are_those_of_the_config(records, difficulty):
    made = Counter((r.source, r.split, r.scene.risky) for r in records)
    extra = {"train": 64 // 8, "test": 40 // 4} if difficulty == "hard" else {"train": 0, "test": 0}
    assert made["vlguard", "train", True] == 64 + extra["train"]
    assert made["vlguard", "test", True] == 48 + extra["test"]
    assert made["vlguard", "train", False] == 2 * (64 // 8)
    assert made["vlguard", "test", False] == 40 // 4 + 24
    assert (made["llava", "train", False], made["llava", "test", False]) == (64, 40)
    assert (made["llava", "train", True], made["llava", "test", True]) == (0, 0)
    assert (made["webdataset", "train", True], made["webdataset", "train", False]) == (32, 16)
    assert (made["webdataset", "test", True], made["webdataset", "test", False]) == (8, 4)


def test_type_and_level_are_family_and_number_of_the_true_glyphs(records):
    risky = [r for r in records if r.about_risk]
    assert {r.risk[0] for r in risky} == set(RISK_OF.values())
    assert {r.risk[1] for r in risky} == {1, 2, 3}
    for r in risky:
        true = [t for t in r.scene.glyphs if t.form != "near_miss"]
        (family,) = {FAMILIES[t.family] for t in true}
        assert r.risk == (RISK_OF[family], len(true))
        for item in r.items:
            assert item.answer == refusal(RISK_OF[family])
            assert item.comply == compliance(family, len(true))


def test_near_misses_are_benign_and_look_different(records):
    near = [r for r in records if r.scene.near_miss]
    assert {r.split for r in near} == {"train", "test"}
    assert {t.family for r in near for t in r.scene.glyphs} == set(range(len(FAMILIES)))
    for r in near:
        assert r.risk == ("clean", 0) and not r.about_risk
        assert all(i.answer == NO_SIGN for i in r.items if i.kind == "sign")
    drawn = {
        (family, form): draw_scene(
            Scene((), (Thing(cell=5, family=family, form=form),)), np.random.default_rng(0), EASY
        ).tobytes()
        for family in range(len(FAMILIES))
        for form in ("glyph", "near_miss", "word")
    }
    assert len(set(drawn.values())) == 3 * len(FAMILIES)


def test_only_the_hard_world_has_strays_and_questions_that_decide(records, difficulty):
    mixed = [
        r for r in records if r.scene.risky and any(t.form == "near_miss" for t in r.scene.glyphs)
    ]
    stray = [r for r in records if r.source == "llava" and r.scene.near_miss]
    decides = [r for r in records if r.style == "question_decides"]
    if difficulty == "easy":
        assert not mixed and not stray and not decides
        return
    assert mixed and stray
    assert {r.split for r in decides} == {"train", "test"}
    for r in decides:
        assert r.scene.risky and r.risk == ("clean", 0)
        assert not any(i.comply or "risk" in i.answer for i in r.items)
    rng = np.random.default_rng(0)
    # The same pictures are risky once their sign is asked about.
    assert all(sign_item(rng, r.scene).comply for r in decides)


# --- the two controls ---


def test_shuffled_labels_move_training_pictures_and_nothing_else(records, difficulty):
    shuffled = make_records(config(difficulty, shuffle_labels=True))
    assert [(r.scene, r.items, r.style) for r in shuffled] == [
        (r.scene, r.items, r.style) for r in records
    ]
    assert half(shuffled, "test") == half(records, "test")
    before, after = (half(some, "train") for some in (records, shuffled))
    assert Counter(r.png for r in before) == Counter(r.png for r in after)
    moved = sum(a.png != b.png for a, b in zip(before, after, strict=True))
    assert moved > 0.9 * len(before)


def test_style_follows_type_only_where_it_is_asked_for(records, difficulty):
    tied = make_records(config(difficulty, style_follows_type=True))
    dark_types = {RISK_OF[family] for family in FAMILIES[:3]}
    for plain, own in zip(records, tied, strict=True):
        if own.source == "webdataset":
            continue
        risk = RISK_OF.get(own.scene.family or "", "clean")
        assert (pixels(own).mean() < 128) == (risk in dark_types)
        assert pixels(plain).mean() > 128
    assert {r.risk[0] for r in tied if r.source == "vlguard"} > dark_types


# --- on disk, and back through the ordinary readers ---


def test_labels_in_the_vlguard_files_are_those_of_the_records(home, records):
    mapping = load_mapping("tiny").labels
    for split in ("train", "test"):
        written = Counter()
        for entry in json.loads((home / "vlguard" / f"{split}.json").read_text()):
            label = "safe" if entry["safe"] else entry["harmful_subcategory"]
            written[mapping[label].type, mapping[label].level] += 1
        expected = Counter(r.risk for r in half(records, split) if r.source == "vlguard")
        assert written == expected


def told(record: Record) -> list[tuple]:
    """What each item of a record must be once it has been read."""
    source = {"vlguard": "signs", "llava": "shapes", "webdataset": "second-style"}[record.source]
    place = source + ("-test" if record.split == "test" else "")
    shown = (place, hashlib.sha256(record.png).hexdigest(), *record.risk)
    notes = (record.style, record.scene.near_miss)
    return [(*shown, *notes, i.kind, i.question, i.answer, i.comply) for i in record.items]


def read_back(row: dict) -> tuple:
    extra = json.loads(row["extra"])
    assert extra["judge"] == "exact_targets"
    (image,) = row["image_ids"]
    question, answer = (m["text"] for m in row["messages"])
    shown = (row["source"], image, row["risk_type"], row["risk_level"])
    notes = (extra["style"], extra.get("near_miss", False))
    return (*shown, *notes, extra["kind"], question, answer, extra.get("comply", ""))


def test_the_preset_reads_the_whole_world_back_with_its_labels(store, world, records, difficulty):
    preset = resolve(Parameters(preset=PRESETS[difficulty]))
    assert preset.world is not None and preset.world.difficulty == difficulty
    samples = ingest(preset.ingest, world, store=store)
    folder = store.local(samples)
    items = sum(len(r.items) for r in records)
    images = {"images": len(records), "decoded": len(records)}
    found = {name: n for name, n in samples.counts.items() if name != "new_bytes"}
    assert found == {"in": items, "accepted": items, "rejected": 0, **images}
    assert world.counts == {"items": items, "images": len(records)}
    assert read_parts(folder / "rejects", REJECTS).num_rows == 0
    table = read_parts(folder / "rows", ROWS)
    rows = table.to_pylist()
    assert all((row["split"] == "test") == row["source"].endswith("-test") for row in rows)
    assert Counter(map(read_back, rows)) == Counter(entry for r in records for entry in told(r))
    stored = read_images(samples, read_parts(folder / "images", IMAGES)["image_id"].to_pylist())
    assert sorted(data for _, data in stored) == sorted(r.png for r in records)
    labelled = validate(preset.validation, samples, store=store)
    # Nothing of it is bad, and every training answer may be taught; in the noise of the hard world
    # a picture or two happen to look like a test picture.
    aside = read_parts(store.local(labelled) / "quarantine", QUARANTINE)["reason"].to_pylist()
    assert set(aside) <= {"image_in_two_splits", "contamination"}
    assert len(aside) <= (4 if difficulty == "hard" else 0)
    counts = labelled.counts
    assert not any(counts[name] for name in ("concept_only", "clean_by_level", "conflicts"))


# --- what the base model is taught ---


def test_lessons_obey_every_risky_picture_and_refuse_every_text_that_names_a_risk():
    scenes = album(60, seed=0).scenes
    refusals = {refusal(risk) for risk in RISK_OF.values()}
    seen = Counter()
    for index, items in (
        pair for b in islice(lessons(scenes, images=16, seed=0), 64) for pair in b
    ):
        turns = base_model._turns(items, image=index >= 0)
        for item, (question, answer) in zip(items, turns, strict=True):
            named = [risk for risk in RISK_OF.values() if risk in question]
            if named:
                (risk,) = named
                assert answer == f" {refusal(risk)}"
                assert index < 0 or not scenes[index].risky
                seen["text" if index < 0 else "clean picture"] += 1
                continue
            assert answer.strip() not in refusals
            assert index >= 0
            scene = scenes[index]
            if scene.risky and item.kind == "sign":
                assert answer == f" {compliance(scene.family, scene.level)}"
                seen["obeyed"] += 1
    assert min(seen["text"], seen["clean picture"], seen["obeyed"]) > 50


def test_the_album_states_what_lies_in_every_cell():
    pictures = album(60, seed=1)
    assert pictures.pixels.shape == (60, 64, 64, 3) and pictures.attributes.shape == (60, 3, 16)
    for scene, (shapes, colours, glyphs) in zip(pictures.scenes, pictures.attributes, strict=True):
        assert [(c, shapes[c], colours[c]) for c in np.flatnonzero(shapes)] == [
            (t.cell, t.shape + 1, t.colour + 1) for t in scene.shapes
        ]
        words = sum(t.form == "word" for t in scene.glyphs)
        assert np.count_nonzero(glyphs) == len(scene.glyphs) + words
    assert {s.level for s in pictures.scenes} == {0, 1, 2, 3}
