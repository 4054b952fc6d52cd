"""That training computes what it says, refuses what it cannot do, and goes on where it stood.

Chunks, precision and recomputation of one step; the rehearsal before the first; the items that are
named; what a checkpoint holds and refuses. Workers and data are those of test_train_parts.py.
"""

import hashlib
import json
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from infra import ray_cluster
from infra.store import Store
from model.losses import IGNORED, answer_sums, language_loss
from model.precision import base_type, recompute
from model.stages import freeze_for
from model.steps import new_optimizer, seed_step
from model.training_state import TrainingState, load_state, state_tensors
from schemas.config import PartConfig, Stage, TrainConfig
from schemas.errors import StoppedError, TrainingError
from tasks.train.data import TrainingData
from tasks.train.faults import culprits
from tasks.train.fit import FINAL
from tasks.train.job import CURVE, ORDER
from tasks.train.loop import backward
from tasks.train.rehearsal import rehearse
from tasks.train.saving import STATE, WEIGHTS, read_checkpoint, write_checkpoint
from tasks.train.seal import SEAL, damage
from tasks.train.verdict import Verdict
from tasks.train.worker import Worker
from tests.shelf import keep_features
from tests.test_train_parts import (
    CONTENT,
    IMAGE_COUNT,
    METHOD,
    PART,
    PARTS,
    PLAN,
    TAXONOMY,
    WIDTH,
    holding,
    image_name,
    new_worker,
    write_set,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def second(folder) -> Worker:
    """A worker of stage 2."""
    worker = new_worker(folder, Stage.ALIGNMENT)
    freeze_for(worker.model, Stage.ALIGNMENT, "lora")
    worker.model.train()
    return worker


def learned(worker: Worker, name: str = "lora") -> tuple[float, torch.Tensor]:
    """Loss and gradients of the first global batch."""
    worker.model.zero_grad(set_to_none=True)
    seed_step(0, 0, 0)
    loss = backward(worker, name, worker.items(0, PART), 0, PART)["loss"]
    trained = [p.grad.reshape(-1) for p in worker.model.parameters() if p.requires_grad]
    return loss, torch.cat(trained)


def with_config(worker: Worker, **changes) -> Worker:
    """The same model and data under another config."""
    job = worker.job
    config = TrainConfig.model_validate({**job.config.model_dump(), **changes})
    return Worker(
        **{**vars(worker), "job": type(job).model_validate({**dict(job), "config": config})}
    )


# --- one step ---


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_the_answers_loss_in_chunks_is_the_loss_over_all_logits(chunk):
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(3, 9, 16, generator=draw).requires_grad_()
    table = torch.randn(50, 16, generator=draw).requires_grad_()
    labels = torch.randint(0, 50, (3, 9), generator=draw)
    labels[torch.rand(3, 9, generator=draw) < 0.4] = IGNORED
    taught = int((labels[:, 1:] != IGNORED).sum())
    shown: list[int] = []

    def head(rows: torch.Tensor) -> torch.Tensor:
        shown.append(len(rows))
        return rows @ table.T

    whole = language_loss(states @ table.T, labels)
    expected = torch.autograd.grad(whole, (states, table))
    total, tokens, right, *_ = answer_sums(states, labels, head, chunk=chunk)
    assert int(tokens) == taught and max(shown) <= chunk
    found = torch.autograd.grad(total / tokens, (states, table))
    torch.testing.assert_close(total / tokens, whole, rtol=0, atol=1e-6)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    foreseen = (states[:, :-1] @ table.T).argmax(-1) == labels[:, 1:]
    assert int(right) == int(foreseen.sum())


class Calls(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func.overloadpacket).removeprefix("aten.")
        self.seen[name] = self.seen.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def test_recomputing_layers_or_what_is_cheap_in_them_changes_no_bit(folder, second):
    found, calls = {}, {}
    for what in ("none", "cheap", "all"):
        worker = new_worker(folder, Stage.ALIGNMENT)
        recompute(worker.model.backbone, what)
        freeze_for(worker.model, Stage.ALIGNMENT, "lora")
        worker.model.train()
        with Calls() as calls[what]:
            found[what] = learned(worker)
    loss, gradients = found["none"]
    for what in ("cheap", "all"):
        assert found[what][0] == loss
        assert torch.equal(found[what][1], gradients)
    products, others = ({k: calls[k].seen[op] for k in calls} for op in ("mm", "silu"))
    # Layers as a whole run twice; of "cheap" the products do not.
    assert others["none"] < others["cheap"] == others["all"]
    again = {what: products[what] - products["none"] for what in products}
    assert again["cheap"] < 0.2 * again["all"]


def test_half_precision_keeps_what_trains_in_full_and_stays_near_it(folder, second):
    loss, gradients = learned(second)
    half = with_config(new_worker(folder, Stage.ALIGNMENT), precision="bf16")
    assert base_type(half.job.config) is torch.bfloat16
    half.model.backbone.vlm.to(torch.bfloat16)
    for name, parameter in half.model.named_parameters():
        if ".lora_" in name:
            parameter.data = second.model.get_parameter(name).data.clone()
    freeze_for(half.model, Stage.ALIGNMENT, "lora")
    half.model.train()
    near, rough = learned(half)
    assert {p.dtype for p in half.model.parameters() if p.requires_grad} == {torch.float32}
    assert near != loss and near == pytest.approx(loss, rel=0.02)
    assert float(torch.cosine_similarity(rough, gradients, dim=0)) > 0.99


def test_a_base_that_trains_itself_is_kept_in_full_precision():
    parts = {"full": PART}
    method = METHOD.model_copy(update={"stage2": "full"})
    config = TrainConfig(stage=Stage.ALIGNMENT, parts=parts, method=method, precision="bf16")
    assert base_type(config) is torch.float32


# --- before the first step ---


def test_the_longest_batch_is_the_one_whose_share_has_the_longest_item(folder, second):
    data = second.data
    lengths = {
        row["sample_id"]: sum(len(m["text"]) for m in row["messages"]) / 4 for row in CONTENT
    }
    for row in CONTENT:
        lengths[row["sample_id"]] += 64 if row["image_ids"] else 0
    for rank, world in ((0, 1), (1, 2)):
        worst = [max(lengths[i.sample_id] for i in data.batch(s, 8, rank, world)) for s in range(5)]
        assert worst[data.longest(5, 8, rank, world)] == max(worst)


def test_the_rehearsal_runs_that_batch_leaves_no_trace_and_counts_its_operations(folder):
    worker = new_worker(folder, Stage.ALIGNMENT)
    freeze_for(worker.model, Stage.ALIGNMENT, "lora")
    worker.model.train()
    before = {name: p.detach().clone() for name, p in worker.model.named_parameters()}
    rehearse(worker, "lora", PART, partial(backward, worker, "lora"))
    assert all(torch.equal(p, before[name]) for name, p in worker.model.named_parameters())
    assert all(p.grad is None for p in worker.model.parameters())
    assert not worker.trained and not worker.losses
    # At least a product forward and one backward with each weight of the language model.
    layers = worker.model.backbone.vlm.model.language_model.layers
    weights = sum(p.numel() for p in layers.parameters() if not p.requires_grad and p.ndim == 2)
    assert 4 * weights < worker.meter.flops < 12 * weights
    assert worker.meter.peak > 1e8
    found = [worker.meter.flops]
    for what in ("cheap", "all"):
        recompute(worker.model.backbone, what)
        rehearse(worker, "lora", PART, partial(backward, worker, "lora"))
        found.append(worker.meter.flops)
    # With recompute the first layer of three gives its input a gradient too.
    assert found[0] < found[1] == found[2] < 1.03 * found[0]


@pytest.mark.parametrize("micro", [None, 3])
def test_the_positions_that_are_told_are_those_that_the_language_model_was_given(
    folder, monkeypatch, micro
):
    worker = new_worker(folder, Stage.CONCEPTS)
    part = PartConfig(**{**dict(PART), "micro_batch": micro})
    backbone, masks = worker.model.backbone, []
    hidden = backbone.hidden

    def noted(embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        assert embeds.shape[:2] == mask.shape
        masks.append(mask)
        return hidden(embeds, mask, positions)

    monkeypatch.setattr(backbone, "hidden", noted)
    freeze_for(worker.model, Stage.CONCEPTS, "tokens")
    sums = backward(worker, "tokens", worker.items(0, part), 0, part)
    assert sums["positions"] == sum(int(mask.sum()) for mask in masks) > 0
    assert sums["padded"] == sum(mask.numel() for mask in masks) > sums["positions"]


def test_a_batch_that_does_not_fit_is_told_with_what_to_do(folder, second):
    def too_large(*_) -> dict[str, float]:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    with pytest.raises(TrainingError, match=r"'lora' does not fit.*parts.lora.micro_batch below 8"):
        rehearse(second, "lora", PART, too_large)


@pytest.fixture
def poisoned(tmp_path) -> Worker:
    """A worker of stage 1 whose cached features of one image are not finite."""
    write_set(tmp_path)
    worker = new_worker(tmp_path, Stage.CONCEPTS)
    features = np.random.default_rng(0).normal(size=(IMAGE_COUNT, 64, WIDTH)).astype(np.float32)
    features[3, 7, 0] = np.nan
    order = np.argsort([image_name(i) for i in range(IMAGE_COUNT)])
    ids = [image_name(i) for i in order]
    bad = keep_features(Store(str(tmp_path / "bad")), ids, features[order])
    data = TrainingData(tmp_path / "balanced", bad, TAXONOMY)
    return Worker(**{**vars(worker), "data": data})


@pytest.mark.parametrize("part", ["concept", "tokens"])
def test_a_loss_that_is_not_finite_names_its_items_and_stops_before_the_first_step(part, poisoned):
    settings = PartConfig(**{**dict(PARTS[Stage.CONCEPTS][part]), "global_batch": 20})
    freeze_for(poisoned.model, Stage.CONCEPTS, part)
    numbers = [n for n in range(20) if n % IMAGE_COUNT == 3 and CONTENT[n]["image_ids"]]
    if part == "tokens":  # the others are not taught, and their answers' loss is nothing
        numbers = [n for n in numbers if CONTENT[n]["supervises"] == "both"]
    poisoned.data.plan = np.arange(20)
    names = ", ".join(f"{n:04d}" for n in numbers)
    assert numbers
    with pytest.raises(TrainingError, match=f"before the first step.*not finite: {names}$"):
        rehearse(poisoned, part, settings, partial(backward, poisoned, part))


def test_a_batch_whose_items_are_fine_alone_is_named_itself(folder, second):
    found = culprits(second, "lora", second.items(0, PART), 0, PART)
    names = ", ".join(item.sample_id for item in second.items(0, PART))
    assert found == f"look at the rows of this batch, of which none is at fault alone: {names}"


def test_errors_that_no_other_try_mends_end_the_run_at_once():
    verdict = Verdict(FINAL)
    with pytest.raises(TrainingError, match="not finite"):
        verdict.after_exception(None, {1: TrainingError("not finite")})
    with pytest.raises(StoppedError):
        verdict.after_exception(None, {0: StoppedError("asked")})
    verdict.after_exception(None, {0: ConnectionError("peer is gone")})


def test_a_cluster_that_is_joined_leaves_sigterm_what_it_was():
    """Ray's own handlers would end the command before its workers have written a checkpoint."""

    def ours(*_) -> None: ...

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with ray_cluster._same_sigterm():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as ray.init does with its own
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


# --- checkpoints ---


def trained(worker: Worker, part: str, steps: int) -> tuple[dict, torch.optim.AdamW]:
    """The loop's own steps and notes, without Ray."""
    from model.steps import apply_gradients

    names = freeze_for(worker.model, Stage.CONCEPTS, part)
    parameters = {name: worker.model.get_parameter(name) for name in names}
    optimizer = new_optimizer(list(parameters.values()), PART)
    for step in range(steps):
        items = worker.items(step, PART)
        optimizer.zero_grad(set_to_none=True)
        loss = backward(worker, part, items, step, PART)["loss"]
        done = apply_gradients(loss, optimizer, step=step, part=PART)
        point = {"part": part, "step": step + 1, "loss": loss, "lr": done.rate}
        worker.note({**point, "gradient_norm": done.gradient_norm}, items)
    return parameters, optimizer


@pytest.fixture(scope="module")
def checkpoint(folder, tmp_path_factory) -> tuple[Path, Worker, dict]:
    worker = new_worker(folder, Stage.CONCEPTS)
    parameters, optimizer = trained(worker, "concept", 3)
    worker.gather_order()
    state = TrainingState(stage=Stage.CONCEPTS, part="concept", step=3)
    path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(worker, path, state_tensors(parameters, optimizer), state)
    return path, worker, parameters


def test_a_checkpoint_holds_weights_moments_losses_and_rows_and_names_them_last(checkpoint):
    path, worker, _ = checkpoint
    assert damage(path) == ""
    files = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert files == {
        WEIGHTS,
        CURVE,
        ORDER,
        SEAL,
        f"{STATE}/state.json",
        f"{STATE}/state.safetensors",
    }
    newest = max(path.rglob("*.*"), key=lambda file: file.stat().st_mtime_ns)
    assert newest.name == SEAL
    assert set(json.loads((path / SEAL).read_text())["files"]) == files - {SEAL}
    rows = pq.read_table(path / ORDER)
    assert rows["row"].to_pylist() == PLAN[:24]
    assert rows["step"].to_pylist() == [1] * 8 + [2] * 8 + [3] * 8


def test_a_checkpoint_comes_back_into_another_process(checkpoint, folder):
    path, worker, parameters = checkpoint
    other = new_worker(folder, Stage.CONCEPTS)
    assert read_checkpoint(other, path).step == 3
    for name, parameter in parameters.items():
        assert torch.equal(other.model.get_parameter(name), parameter)
    assert other.losses == worker.losses and len(other.losses) == 3
    assert other.order.equals(worker.order)
    names = freeze_for(other.model, Stage.CONCEPTS, "concept")
    again = {name: other.model.get_parameter(name) for name in names}
    optimizer = new_optimizer(list(again.values()), PART)
    assert load_state(path / STATE, again, optimizer).note == {
        "data": other.data.digest,
        "workers": 1,
    }


def test_rows_after_a_resume_follow_those_before_it(checkpoint, folder):
    path, _, _ = checkpoint
    other = new_worker(folder, Stage.CONCEPTS)
    read_checkpoint(other, path)
    items = other.items(3, PART)
    other.note({"part": "concept", "step": 4}, items)
    other.gather_order()
    assert other.order["row"].to_pylist() == [PLAN[i % len(PLAN)] for i in range(32)]
    other.gather_order()
    assert len(other.order) == 32


@pytest.mark.parametrize("name", [WEIGHTS, f"{STATE}/state.safetensors", ORDER, SEAL])
def test_a_damaged_checkpoint_is_known_as_one(name, checkpoint, tmp_path):
    path = shutil.copytree(checkpoint[0], tmp_path / "copy")
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(bytes(content))
    assert damage(path) or name == SEAL
    (path / name).unlink()
    assert Path(name).name in damage(path)


def test_a_checkpoint_of_other_data_or_of_other_workers_is_refused(checkpoint, folder, tmp_path):
    path, _, _ = checkpoint
    other = new_worker(folder, Stage.CONCEPTS)
    other.data.plan = np.array(PLAN[::-1])
    with pytest.raises(TrainingError, match="other data or workers .data [0-9a-f]{64}, now"):
        read_checkpoint(other, path)
    # Other rows in the same order.
    changed = write_set(tmp_path)
    rows = [{**row, "sample_id": f"x{row['sample_id']}"} for row in CONTENT]
    shutil.rmtree(changed / "balanced" / "rows")
    (changed / "balanced" / "rows").mkdir()
    schema = pq.read_schema(next((folder / "balanced" / "rows").iterdir()))
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, changed / "balanced" / "rows" / "part-0.parquet")
    with pytest.raises(TrainingError, match="other data or workers"):
        read_checkpoint(new_worker(changed, Stage.CONCEPTS), path)
    with pytest.raises(TrainingError, match="workers 1, now 2"):
        read_checkpoint(new_worker(folder, Stage.CONCEPTS, rank=0, world=2), path)


def test_what_is_trained_on_is_one_hash(folder):
    worker = new_worker(folder, Stage.CONCEPTS)
    ids = "\n".join(row["sample_id"] for row in CONTENT)
    text = ids.encode() + np.array(PLAN, "<i8").tobytes()
    assert worker.data.digest == hashlib.sha256(text).hexdigest()
    assert holding(worker, PLAN[1:]).data.digest != worker.data.digest
