"""Training's parts: what a batch holds, and what each loss counts.

Several workers: test_train_workers.py.
"""

import hashlib
import io
import json
import os
import time
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from infra.store import Store
from model.backbone import Backbone
from model.backbones.llava import Llava
from model.lora import add_lora, lora_parameters
from model.prompts import teach
from model.psavlm import PsaVlm
from model.stages import freeze_for
from model.tiny_llava import new_llava, new_processor, new_tokenizer
from schemas.artifact import Artifact
from schemas.config import BaseConfig, EncodeConfig, MethodConfig, PartConfig, Stage, TrainConfig
from schemas.errors import StorageError
from schemas.hints import load_hints
from schemas.presets import Parameters, resolve
from schemas.samples import ROWS, Message
from schemas.taxonomy import load_taxonomy
from tasks.base_model import FOLDER
from tasks.encode import FeatureCache, encode
from tasks.encode.sight import open_sight
from tasks.progress import progress
from tasks.train import Inputs
from tasks.train.data import Item, TrainingData, calibration_items, to_items
from tasks.train.job import Job
from tasks.train.loop import backward
from tasks.train.losses import LOSSES, cut
from tasks.train.meter import COUNTED, Meter
from tasks.train.reporter import Reporter
from tasks.train.showing import hint_of, hinted
from tasks.train.watch import watching
from tasks.train.worker import Worker
from tests.shelf import keep_features, keep_images

torch.set_num_threads(1)
TAXONOMY = load_taxonomy()
HINTS = load_hints("default", taxonomy=TAXONOMY)
WORDS = ["USER: how many red shapes are there ? ASSISTANT: two red circles and a square"] * 4
METHOD = MethodConfig(tokens=4, attention_heads=4, lora_rank=2, lora_alpha=4, lora_dropout=0.0)
PART = PartConfig(steps=6, global_batch=8, lr=1e-3)
PARTS = {
    Stage.CONCEPTS: {"concept": PART, "tokens": PartConfig(**{**dict(PART), "hint_share": 0.5})},
    Stage.ALIGNMENT: {"lora": PART},
}
WIDTH, IMAGE_COUNT, ROW_COUNT = 32, 11, 20


# --- a small training set on disk: some rows have no answer, some no image ---


def image_name(number: int) -> str:
    return hashlib.sha256(f"image {number}".encode()).hexdigest()


def row(number: int, **changes) -> dict:
    risky = number % 3 == 0
    turns = [{"role": "user", "text": f"how many {'red ' * (number % 4)}shapes ?"}]
    answered = number not in (1, 5, 6, 14)
    if answered:
        turns.append({"role": "assistant", "text": "two circles" + " and a square" * (number % 3)})
    return {
        "sample_id": f"{number:04d}",
        "image_ids": [] if number % 5 == 2 else [image_name(number % IMAGE_COUNT)],
        "source": "s",
        "source_key": str(number),
        "split": "train",
        "messages": turns,
        "risk_type": TAXONOMY.type_ids[number % 6] if risky else "clean",
        "risk_level": 1 + number % 2 if risky else 0,
        "supervises": "both" if answered else "concept",
        "language": "",
        "licence": "",
        "group_id": str(number),
        "slices": [],
        "extra": "{}",
        **changes,
    }


CONTENT = [row(number) for number in range(ROW_COUNT)]
# Longer than one pass of the rows, no multiple of a batch, and uneven between two halves of one.
PLAN = [(7 * i + i // ROW_COUNT) % ROW_COUNT for i in range(28)]


def write_set(folder: Path) -> Path:
    """`balanced/` as its step leaves it; rows in two parts, last part first."""
    (folder / "balanced" / "rows").mkdir(parents=True)
    for number, part in enumerate((CONTENT[9:], CONTENT[:9])):
        name = folder / "balanced" / "rows" / f"part-{number}.parquet"
        pq.write_table(pa.Table.from_pylist(part, ROWS), name)
    plan = pa.table({"row": pa.array(PLAN, pa.int32())})
    pq.write_table(plan, folder / "balanced" / "plan.parquet")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


def new_data(folder: Path) -> TrainingData:
    features = np.random.default_rng(0).normal(size=(IMAGE_COUNT, 64, WIDTH)).astype(np.float32)
    ids = [image_name(i) for i in range(IMAGE_COUNT)]
    order = np.argsort(ids)
    kept = keep_features(Store(str(folder / "store")), [ids[i] for i in order], features[order])
    return TrainingData(folder / "balanced", kept, TAXONOMY)


@pytest.fixture(scope="module")
def data(folder) -> TrainingData:
    return new_data(folder)


def address(step: str, root: str = "root") -> Artifact:
    return Artifact(uri=f"{root}/{step}/{'0' * 24}", step=step, fingerprint="0" * 24)


def new_job(stage: Stage, root: Path) -> Job:
    config = TrainConfig(stage=stage, parts=PARTS[stage], method=METHOD)
    roles = {"base": "base_model", "balanced": "balance", "features": "encode"}
    inputs = {role: address(step) for role, step in {**roles, "labelled": "validate"}.items()}
    return Job(
        config=config,
        inputs=Inputs(**inputs),
        taxonomy=TAXONOMY,
        hints=HINTS,
        root=str(root / "store"),
        progress=str(root / "store" / "progress.json"),
    )


def new_backbone() -> Backbone:
    tokenizer = new_tokenizer(WORDS)
    llava = new_llava(BaseConfig(width=WIDTH, layers=3, heads=4), tokenizer)
    return Llava(llava, tokenizer, new_processor(tokenizer).image_processor)


def new_worker(folder: Path, stage: Stage, *, rank: int = 0, world: int = 1) -> Worker:
    """One worker's state, the same in every process."""
    job = new_job(stage, folder)
    model = PsaVlm.new(new_backbone(), METHOD, types=7, levels=4)
    if stage is Stage.ALIGNMENT:
        add_lora(model.backbone, METHOD)
        with torch.no_grad():  # B starts at 0, and then A has no gradient to compare
            for name, parameter in lora_parameters(model.backbone).items():
                if ".lora_B." in name:
                    parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    return Worker(job, model, new_data(folder), rank, world, Reporter(job, rank))


@pytest.fixture(scope="module")
def worker(folder) -> Worker:
    return new_worker(folder, Stage.CONCEPTS)


def holding(worker: Worker, numbers: list[int]) -> Worker:
    """A worker whose only batch are these rows."""
    parts = new_data(Path(worker.job.root).parent)
    parts.plan = np.array(numbers)
    return Worker(**{**vars(worker), "data": parts})


def loss_of(worker: Worker, name: str, numbers: list[int], **changes) -> torch.Tensor:
    part = PartConfig(**{**dict(PART), "global_batch": len(numbers), **changes})
    own = holding(worker, numbers)
    return sum(LOSSES[name](own, own.items(0, part), 0, part), torch.zeros(()))


def learned(worker: Worker, name: str, numbers: list[int]) -> float:
    """The same loss, with its gradients left in place as the loop leaves them."""
    part = PartConfig(**{**dict(PART), "global_batch": len(numbers)})
    own = holding(worker, numbers)
    return backward(own, name, own.items(0, part), 0, part)["loss"]


# --- data ---


@pytest.mark.parametrize("world", [2, 4])
def test_every_world_size_gives_the_same_items_in_every_global_batch(data, world):
    for step in range(8):
        alone = [item.sample_id for item in data.batch(step, 8, 0, 1)]
        shares = [[i.sample_id for i in data.batch(step, 8, rank, world)] for rank in range(world)]
        assert {len(share) for share in shares} == {8 // world}
        assert [name for share in shares for name in share] == alone


def test_batches_follow_the_plan_over_rows_by_id_and_begin_again_at_its_end(data):
    taken = [item.sample_id for step in range(8) for item in data.batch(step, 8, 0, 1)]
    assert taken == [f"{PLAN[i % len(PLAN)]:04d}" for i in range(64)]


def test_items_carry_class_numbers_and_may_be_text_alone(data):
    items = {item.sample_id: item for step in range(4) for item in data.batch(step, 8, 0, 1)}
    assert len(items) == ROW_COUNT
    for number, stated in enumerate(CONTENT):
        item = items[f"{number:04d}"]
        assert TAXONOMY.type_ids[item.risk_type] == stated["risk_type"]
        assert item.risk_level == stated["risk_level"]
        assert item.teaches_language == (stated["supervises"] == "both")
        assert [item.image_id] == (stated["image_ids"] or [None])
        assert item.question == stated["messages"][0]["text"]
    assert {item.teaches_language for item in items.values()} == {True, False}


def test_features_come_in_the_order_of_the_items_that_have_an_image(data):
    items = to_items([CONTENT[i] for i in (3, 2, 0, 12, 3)], TAXONOMY)
    assert [item.image_id is None for item in items] == [False, True, False, True, False]
    found = data.images(items)
    assert found.dtype == torch.float32
    assert torch.equal(found, data.features.batch([image_name(n) for n in (3, 0, 3)]))
    assert not torch.equal(found[0], found[1])


def test_calibration_items_are_that_split_with_images_by_id(tmp_path):
    (tmp_path / "rows").mkdir()
    rows = [row(i, split="calibration" if i % 2 else "train") for i in range(ROW_COUNT)]
    pq.write_table(pa.Table.from_pylist(rows[::-1], ROWS), tmp_path / "rows" / "part-0.parquet")
    items = calibration_items(tmp_path, TAXONOMY)
    expected = [r["sample_id"] for r in rows if r["split"] == "calibration" and r["image_ids"]]
    assert [item.sample_id for item in items] == expected and expected


# --- losses of one worker ---


def test_the_concept_loss_is_that_of_the_items_with_an_image(worker):
    freeze_for(worker.model, Stage.CONCEPTS, "concept")
    seen = to_items([CONTENT[i] for i in (0, 1, 3)], TAXONOMY)
    expected = worker.model.concept_batch_loss(
        worker.data.images(seen),
        [item.question for item in seen],
        torch.tensor([item.risk_type for item in seen]),
        torch.tensor([item.risk_level for item in seen]),
        weight=10.0,
    )
    # 2 and 7 are text alone; 1 has no answer and counts here all the same.
    found = loss_of(worker, "concept", [0, 2, 1, 7, 3])
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_batch_of_text_alone_teaches_no_concept_but_gives_every_gradient(worker):
    names = freeze_for(worker.model, Stage.CONCEPTS, "concept")
    parameters = [worker.model.get_parameter(name) for name in names]
    worker.model.zero_grad(set_to_none=True)
    assert learned(worker, "concept", [2, 7]) == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in parameters)


def test_the_language_loss_is_the_mean_over_the_answers_that_may_be_taught(worker):
    freeze_for(worker.model, Stage.CONCEPTS, "tokens")
    taught = [0, 2, 3, 7, 4]  # 2 and 7 without an image
    items = to_items([CONTENT[i] for i in taught], TAXONOMY)
    features = [None if i.image_id is None else worker.data.images([i])[0] for i in items]
    prompts = [teach(*(message.text for message in item.messages)) for item in items]
    total, count = worker.model.language_batch_sum(features, prompts)
    found = loss_of(worker, "tokens", [0, 1, 2, 3, 5, 7, 4])  # 1 and 5 have only a label
    assert found.item() == pytest.approx((total / count).item(), abs=1e-5)


def test_the_joint_part_takes_both_losses_and_gives_every_parameter_its_own_gradient(worker):
    """The two share no parameter: at one step of both each has what it has alone."""
    numbers, found = [0, 2, 3, 7, 1], {}
    for name in ("concept", "tokens", "joint"):
        names = freeze_for(worker.model, Stage.CONCEPTS, name)
        worker.model.zero_grad(set_to_none=True)
        loss = learned(worker, name, numbers)
        found[name] = loss, {n: worker.model.get_parameter(n).grad.clone() for n in names}
    (concept, heads), (tokens, spoken), (both, all_of_them) = found.values()
    assert both == pytest.approx(concept + tokens, rel=1e-6)
    assert all_of_them.keys() == heads.keys() | spoken.keys() and not heads.keys() & spoken.keys()
    assert all(torch.equal(all_of_them[n], g) for n, g in {**heads, **spoken}.items())


def test_an_answer_that_may_not_be_taught_changes_nothing(worker):
    """A concept-only row may carry an answer, for a risky one that complies: it is masked."""
    freeze_for(worker.model, Stage.CONCEPTS, "tokens")
    told = row(3, supervises="concept")
    assert len(told["messages"]) == 2
    batches = [[CONTENT[0], told], [CONTENT[0]]]
    losses = []
    for rows in batches:
        found = LOSSES["tokens"](worker, to_items(rows, TAXONOMY), 0, PART)
        losses.append(sum(loss.item() for loss in found))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_batch_without_an_answer_is_no_language_loss_and_no_gradient(folder, worker):
    second = new_worker(folder, Stage.ALIGNMENT)
    for own, name in ((worker, "tokens"), (second, "lora")):
        names = freeze_for(own.model, own.job.config.stage, name)
        parameters = [own.model.get_parameter(n) for n in names]
        own.model.zero_grad(set_to_none=True)
        assert learned(own, name, [1, 5]) == 0.0
        assert all(p.grad is not None and not p.grad.any() for p in parameters)


def test_a_hinted_prompt_has_the_hint_of_its_true_label_before_the_question(worker):
    freeze_for(worker.model, Stage.CONCEPTS, "tokens")
    risky, clean = to_items([CONTENT[0], CONTENT[4]], TAXONOMY)
    text = HINTS.text_for("politics", 1, taxonomy=TAXONOMY)
    assert "politics" in text
    found = [hint_of(worker, item.risk_type, item.risk_level) for item in (risky, clean)]
    assert found == [text, ""]
    question, answer = (message.text for message in risky.messages)
    features = worker.data.images([risky])
    for share, hint in ((1.0, text), (0.0, "")):
        prompt = teach(question, answer, hint=hint)
        total, count = worker.model.language_batch_sum(features, [prompt])
        found = loss_of(worker, "tokens", [0], hint_share=share)
        assert found.item() == pytest.approx((total / count).item(), abs=1e-5)
    alike = [loss_of(worker, "tokens", [4], hint_share=share).item() for share in (1.0, 0.0)]
    assert alike[0] == alike[1]
    unlike = [loss_of(worker, "tokens", [0], hint_share=share).item() for share in (1.0, 0.0)]
    assert unlike[0] != pytest.approx(unlike[1], abs=1e-3)


def test_which_prompts_are_hinted_is_drawn_anew_for_every_step_and_by_hash_alone(worker):
    item, other = to_items([CONTENT[0], CONTENT[3]], TAXONOMY)

    def drawn(item: Item, share: float) -> list[bool]:
        return [hinted(worker, item, step, share) for step in range(800)]

    quarter = drawn(item, 0.25)
    assert 150 < sum(quarter) < 250
    assert quarter == drawn(item, 0.25) != drawn(other, 0.25)
    # A larger share hints at these steps too.
    assert all(more for more, few in zip(drawn(item, 0.75), quarter, strict=True) if few)
    assert set(drawn(item, 1.0)) == {True} and set(drawn(item, 0.0)) == {False}


# --- micro-batches ---


def test_micro_batches_begin_with_the_longest_items_and_a_whole_batch_keeps_its_order():
    lengths = [3, 9, 1, 9, 5]
    assert cut(lengths, 2) == [[1, 3], [4, 0], [2]]
    assert cut(lengths, None) == cut(lengths, 5) == [[0, 1, 2, 3, 4]]
    assert cut([], 2) == cut([], None) == []


# --- watching ---


SUMS = {**dict.fromkeys(COUNTED, 0.0), "clean": 6.0, "risky": 2.0, "seen": 8.0}
SUMS |= {"types_right": 6.0, "positions": 100.0}


def note(reporter: Reporter, part: str, step: int, *, loss: float, seconds: float) -> None:
    point = {"part": part, "step": step, "loss": loss, "lr": 0.1, "gradient_norm": 2.0}
    reporter.step(point, SUMS, PART, Meter(), seconds=seconds)


def test_rank_zero_writes_how_far_it_is_and_the_others_write_nothing(tmp_path):
    job = new_job(Stage.CONCEPTS, tmp_path)
    Path(job.root).mkdir()
    silent, told = Reporter(job, 1), Reporter(job, 0)
    note(silent, "concept", 1, loss=2.5, seconds=0.5)
    assert silent.figures["samples_per_s"] == pytest.approx(16.0)
    assert not Path(job.progress).exists()
    note(told, "concept", 1, loss=2.5, seconds=0.5)
    found = json.loads(Path(job.progress).read_text())
    expected = {"part": "concept", "step": 1, "steps": 6, "loss": 2.5, "samples_per_s": 16.0}
    expected |= {"tokens_per_s": 200.0, "clean_per_unsafe": 3.0, "types_accuracy": 0.75}
    assert found.items() >= {**expected, "data_wait": 0.0, "pid": os.getpid()}.items()
    assert found["memory_bytes"] > 1e7 and "levels_accuracy" not in found
    # Within a moment of the last note nothing is written, but the last step always is; and figures
    # are of the steps since the last note.
    note(told, "concept", 2, loss=2.0, seconds=1.0)
    assert json.loads(Path(job.progress).read_text())["step"] == 1
    note(told, "concept", 6, loss=1.0, seconds=1.0)
    assert told.figures["samples_per_s"] == pytest.approx(8.0)
    assert json.loads(Path(job.progress).read_text())["step"] == 6


def test_the_driver_shows_the_steps_of_all_parts_as_one_count(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tasks.train.watch.POLL_S", 0.01)
    monkeypatch.setattr("tasks.progress.LINE_EVERY_S", 0.0)
    job = new_job(Stage.CONCEPTS, tmp_path)
    Path(job.root).mkdir()
    shown = ""
    with watching(Store(job.root), job.progress, job.config):
        time.sleep(0.05)  # nothing there yet, and then something half-written
        Path(job.progress).write_text('{"part": "tok')
        time.sleep(0.05)
        assert not capsys.readouterr().err
        note(Reporter(job, 0), "tokens", 2, loss=1.5, seconds=0.5)
        end = time.monotonic() + 10
        while "\n" not in shown and time.monotonic() < end:
            time.sleep(0.01)
            shown += capsys.readouterr().err
    assert shown.splitlines()[0].startswith("stage1  8/12  tokens  loss 1.5  16.0 samples/s")


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, capsys):
    with progress("encode", 3) as tick:
        tick(1, "images")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("tasks.progress.LINE_EVERY_S", 0.0)
    with progress("encode", 3) as tick:
        tick(1, "images")
        tick(3, "images")
    assert capsys.readouterr() == ("", "encode  1/3  images\nencode  3/3  images\n")


# --- the job ---


def test_a_job_goes_to_its_workers_as_plain_json_and_comes_back(tmp_path):
    preset = resolve(Parameters(preset="tiny"))
    for config, start in ((preset.stage1, None), (preset.stage2, address("stage1"))):
        inputs = Inputs(**{**dict(new_job(config.stage, tmp_path).inputs), "start": start})
        job = Job(
            config=config,
            inputs=inputs,
            taxonomy=TAXONOMY,
            hints=HINTS,
            root="s3://bucket/root",
            progress="p",
        )
        assert Job.model_validate(json.loads(json.dumps(job.model_dump(mode="json")))) == job
        roles = {"base", "balanced", "features", "labelled"} | ({"start"} if start else set())
        assert job.inputs.parents().keys() == roles


# --- encode ---


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
    stream = io.BytesIO()
    # One in another mode: it must become RGB before the encoder sees it.
    Image.fromarray(pixels if number else pixels[..., 0]).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def snapshot(tmp_path):
    """Store, base, samples (7 images), and labelled rows that use five of them, one twice."""
    store = Store(str(tmp_path / "store"))
    encoded = {hashlib.sha256(png(i)).hexdigest(): png(i) for i in range(7)}
    backbone = new_backbone()
    used = list(encoded)[:5]

    def base(folder: Path) -> dict[str, int]:
        backbone.vlm.save_pretrained(folder / FOLDER)
        new_processor(backbone.tokenizer).save_pretrained(folder / FOLDER)
        return {}

    def samples(folder: Path) -> dict[str, int]:
        for some in (list(encoded)[:3], list(encoded)[3:]):  # in two shards
            keep_images(store, {name: encoded[name] for name in some})
        return {}

    def labelled(folder: Path) -> dict[str, int]:
        (folder / "rows").mkdir()
        ids = [[used[0]], used[1:3], [used[3]], [used[4]], [used[0]], []]
        rows = [row(i, image_ids=own) for i, own in enumerate(ids)]
        pq.write_table(pa.Table.from_pylist(rows, ROWS), folder / "rows" / "part-0.parquet")
        return {}

    made = {
        build.__name__: store.artifact(build.__name__, 1, config={}, build=build)
        for build in (base, samples, labelled)
    }
    images = {i: Image.open(io.BytesIO(encoded[i])).convert("RGB") for i in sorted(used)}
    return store, made, backbone.encode_images(list(images.values())), list(images)


@pytest.mark.parametrize("batch", [1, 2, 128])
def test_features_are_the_backbones_own_in_order_of_image_id(snapshot, batch):
    store, made, expected, ids = snapshot
    artifact = encode(EncodeConfig(batch=batch), **made, store=store)
    assert artifact.counts == {"images": 5, "encoded": 5, "new_bytes": 5 * 64 * WIDTH * 4}
    cache = FeatureCache(artifact)
    assert {array.dtype for array in cache.source.arrays.values()} == {np.dtype(np.float32)}
    assert torch.allclose(cache.batch(ids), expected, atol=1e-5)
    chosen = cache.batch([ids[3], ids[0], ids[3]])
    assert torch.allclose(chosen, expected[[3, 0, 3]], atol=1e-5)


def test_a_gpus_memory_is_given_back_when_the_encoder_is_gone(snapshot, monkeypatch):
    """A worker of the training may use the same card while this process lives."""
    store, made, _, _ = snapshot
    opened, gone = [], []

    def open_one(*asked):
        backbone = open_sight(*asked)
        opened.append(weakref.ref(backbone))
        return backbone

    monkeypatch.setattr("tasks.encode.step.open_sight", open_one)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: gone.append(opened[0]() is None))
    encode(EncodeConfig(batch=2), **made, store=store)
    assert gone == [True]


def test_new_images_alone_are_encoded_and_shards_are_read_as_one(snapshot):
    store, made, expected, ids = snapshot

    def labelled(folder: Path) -> dict[str, int]:
        (folder / "rows").mkdir()
        table = pa.Table.from_pylist([row(0, image_ids=ids[1:3])], ROWS)
        pq.write_table(table, folder / "rows" / "part-0.parquet")
        return {}

    few = store.artifact("labelled", 1, config={"few": True}, build=labelled)
    before = encode(EncodeConfig(), **{**made, "labelled": few}, store=store)
    assert (before.counts["images"], before.counts["encoded"]) == (2, 2)
    after = encode(EncodeConfig(), **made, store=store)
    assert (after.counts["images"], after.counts["encoded"]) == (5, 3)
    cache = FeatureCache(after)
    assert len(cache.source.arrays) == 2
    assert torch.allclose(cache.batch(ids), expected, atol=1e-5)
    alone = encode(EncodeConfig(), **made, store=Store(f"{store.root}-other"))
    assert torch.equal(FeatureCache(alone).batch(ids), cache.batch(ids))


def test_half_width_features_are_the_same_numbers_rounded(snapshot):
    store, made, expected, ids = snapshot
    artifact = encode(EncodeConfig(dtype="bfloat16", batch=2), **made, store=store)
    cache = FeatureCache(artifact)
    assert {array.dtype for array in cache.source.arrays.values()} == {np.dtype(np.uint16)}
    found = cache.batch(ids)
    assert found.shape == expected.shape
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected, rtol=2**-7, atol=1e-5)


def test_an_image_that_is_not_there_is_an_error_and_not_a_row_of_zeros(snapshot):
    store, made, _, _ = snapshot
    lost = hashlib.sha256(b"lost").hexdigest()

    def labelled(folder: Path) -> dict[str, int]:
        (folder / "rows").mkdir()
        table = pa.Table.from_pylist([row(0, image_ids=[lost])], ROWS)
        pq.write_table(table, folder / "rows" / "part-0.parquet")
        return {}

    strange = store.artifact("labelled", 1, config={"strange": True}, build=labelled)
    with pytest.raises(StorageError, match=f"{lost}; run the same command again"):
        encode(EncodeConfig(), **{**made, "labelled": strange}, store=store)
    assert store.find("samples", made["samples"].fingerprint) is None  # to be made anew


def test_rows_of_text_alone_have_no_features(snapshot):
    store, made, _, _ = snapshot

    def labelled(folder: Path) -> dict[str, int]:
        (folder / "rows").mkdir()
        table = pa.Table.from_pylist([row(0, image_ids=[])], ROWS)
        pq.write_table(table, folder / "rows" / "part-0.parquet")
        return {}

    text = store.artifact("labelled", 1, config={"text": True}, build=labelled)
    artifact = encode(EncodeConfig(), **{**made, "labelled": text}, store=store)
    assert artifact.counts == {"images": 0, "encoded": 0, "new_bytes": 0}
    assert not FeatureCache(artifact).source.arrays


def test_a_question_is_what_the_user_says_first():
    turns = (Message("user", "a ?"), Message("assistant", "b"), Message("user", "c ?"))
    assert Item("i", None, turns, 6, 0, teaches_language=True).question == "a ?"
