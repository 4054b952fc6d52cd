"""That training computes what it says, refuses what it cannot do, and goes on where it stood.

Chunks, precision and recomputation of one step; the rehearsal before the first; the items that are
named; what a checkpoint holds and refuses. Workers and data are those of test_train_parts.py.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.train
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface

from infra import ray_cluster
from infra.store import Store
from model.losses import IGNORED, answer_sums, language_loss
from model.packing import attend_by
from model.precision import base_type, recompute
from model.stages import freeze_for
from model.steps import apply_gradients, new_optimizer, seed_step
from model.tensors import read_tensors
from model.training_state import (
    PARAMETER,
    TrainingState,
    allocate_moments,
    save_state,
)
from schemas.config import PartConfig, Stage, TrainConfig
from schemas.errors import StoppedError, TrainingError
from schemas.samples import ROWS
from tasks.train import saving
from tasks.train.data import TrainingData
from tasks.train.faults import culprits
from tasks.train.fit import FINAL
from tasks.train.job import CURVE, ORDER
from tasks.train.loop import _train_part, backward
from tasks.train.losses import LOSSES
from tasks.train.publish import calibrate
from tasks.train.rehearsal import rehearse
from tasks.train.repeat import choose_kernels
from tasks.train.saving import (
    STATE,
    WEIGHTS,
    new_draft,
    read_checkpoint,
    report_checkpoint,
    restore,
    restore_optimizer,
    snapshot,
    write_checkpoint,
)
from tasks.train.seal import SEAL, damage
from tasks.train.step import on_gpus
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
    ROW_COUNT,
    TAXONOMY,
    WIDTH,
    holding,
    image_name,
    new_data,
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


class Attend(torch.autograd.Function):
    """Attention by an operation named as FlashAttention's, which sees but its own position."""

    @staticmethod
    def forward(ctx, query, key, value):
        return torch.ops.flash_attn._flash_attn_forward(query, key, value)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient, gradient


@pytest.fixture
def flash() -> Iterator[list[int]]:
    """An attention named `near`, and the number of items in each of its calls."""
    calls: list[int] = []

    def near(query, key, value):
        calls.append(len(query))
        return query + key + value

    def attend(module, query, key, value, mask, **_):
        return Attend.apply(query, key, value).transpose(1, 2), None

    with torch.library._scoped_library("flash_attn", "FRAGMENT") as library:
        library.define("_flash_attn_forward(Tensor q, Tensor k, Tensor v) -> Tensor")
        library.impl("_flash_attn_forward", near, "CPU")
        AttentionInterface.register("near", attend)
        yield calls


@pytest.mark.parametrize(("what", "times"), [("none", 1), ("cheap", 1), ("all", 2)])
def test_what_is_cheap_leaves_out_the_attention_of_the_flash_attention_package(
    what, times, folder, flash
):
    worker = new_worker(folder, Stage.ALIGNMENT)
    attend_by(worker.model.backbone, "near")
    recompute(worker.model.backbone, what)
    freeze_for(worker.model, Stage.ALIGNMENT, "lora")
    worker.model.train()
    learned(worker)
    assert len(flash) == times * len(worker.model.backbone.vlm.model.language_model.layers)


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


# --- steps that repeat ---


OPERATION = "max_unpooling2d_forward_out"  # without a kernel that repeats, also on the CPU


def not_repeating() -> None:
    pooled = torch.nn.functional.max_pool2d(torch.ones(1, 1, 4, 4), 2, return_indices=True)
    torch.nn.functional.max_unpool2d(*pooled, 2)


class Undone(torch.autograd.Function):
    """The same number; on the way back it meets that operation."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        not_repeating()
        return gradient


@pytest.fixture
def deterministic() -> Iterator[None]:
    """As in a worker of Ray Train; afterwards as it was."""
    choose_kernels()
    yield
    torch.use_deterministic_algorithms(False)


def through_part(worker: Worker, part: str, monkeypatch) -> list[dict]:
    """All steps of a part by the loop itself, without Ray; its curve."""
    monkeypatch.setattr("tasks.train.loop.report_checkpoint", lambda *_, **__: None)
    assert not _train_part(worker, part, resumed=None)
    return worker.losses


@pytest.mark.parametrize("stage", list(Stage))
def test_here_all_parts_train_strictly(stage, folder, deterministic, monkeypatch):
    worker = new_worker(folder, stage)
    for part in PARTS[stage]:
        through_part(worker, part, monkeypatch)
        assert worker.strict
    assert worker.model.trains_with == {}
    assert torch.is_deterministic_algorithms_warn_only_enabled()  # but in a step's passes


@pytest.mark.filterwarnings("ignore:max_unpooling2d")
@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("since", [0, 4])
def test_where_an_operation_cannot_repeat_it_is_named_once_and_the_part_goes_on(
    since, way, folder, deterministic, monkeypatch, caplog, tmp_path
):
    """Before the first step, or at one whose batch has met it first; the step is done again."""
    expected = through_part(new_worker(folder, Stage.ALIGNMENT), "lora", monkeypatch)
    own, tried = LOSSES["lora"], []

    def losses(worker, items, step, part):
        tried.append(step)
        for share in own(worker, items, step, part):
            if step >= since and way == "forward":
                not_repeating()
            yield Undone.apply(share) if step >= since and way == "backward" else share

    monkeypatch.setitem(LOSSES, "lora", losses)
    worker = new_worker(folder, Stage.ALIGNMENT)
    first = worker.data.longest(PART.steps, PART.global_batch, 0, 1)
    assert since == 0 or first < since
    caplog.clear()
    assert through_part(worker, "lora", monkeypatch) == expected
    steps = [0, 1, 2, 3, 4, 4, 5] if since else [first, 0, 1, 2, 3, 4, 5]
    assert tried == [first, *steps]
    assert caplog.text.count(OPERATION) == 1 and "other last bits" in caplog.text
    assert worker.model.trains_with == {"unrepeatable": OPERATION}
    # A later part, and a process that goes on, begin strictly and know of it.
    state = TrainingState(stage=Stage.ALIGNMENT, part="lora", step=6)
    monkeypatch.setattr(Worker, "is_last", lambda *_: False)
    parameters, optimizer = started(worker, "lora")
    write_checkpoint(worker, tmp_path, snapshot(worker, parameters, optimizer, state))
    other = new_worker(folder, Stage.ALIGNMENT)
    assert read_checkpoint(other, tmp_path).note["unrepeatable"] == [OPERATION]
    assert other.model.trains_with == worker.model.trains_with


def test_another_error_of_a_step_is_its_own(folder, deterministic, monkeypatch):
    def losses(*_):
        raise RuntimeError("shapes do not fit")
        yield

    monkeypatch.setitem(LOSSES, "lora", losses)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        through_part(new_worker(folder, Stage.ALIGNMENT), "lora", monkeypatch)


def test_a_workers_first_product_finds_cublas_told_to_repeat(monkeypatch, deterministic):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    choose_kernels()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    choose_kernels()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


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


def test_a_text_of_few_but_long_characters_is_the_longest(tmp_path):
    """A Chinese character is a token or more, an English letter a fourth of one."""
    texts = [
        "how many shapes are there in this picture ?",
        "这张图片里一共有多少个红色的圆形和蓝色的方块？",
    ]
    assert len(texts[0]) > len(texts[1])
    rows = [
        {**row, "image_ids": [], "messages": [{"role": "user", "text": texts[row == CONTENT[9]]}]}
        for row in CONTENT
    ]
    write_set(tmp_path)
    shutil.rmtree(tmp_path / "balanced" / "rows")
    (tmp_path / "balanced" / "rows").mkdir()
    table = pa.Table.from_pylist(rows, ROWS)
    pq.write_table(table, tmp_path / "balanced" / "rows" / "part-0.parquet")
    data = new_data(tmp_path)
    data.plan = np.arange(ROW_COUNT)
    assert data.longest(5, 4, 0, 1) == 2


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
    one = PartConfig(**{**dict(PART), "micro_batch": 1})
    with pytest.raises(TrainingError, match='1 items at a time.*Set recompute = "cheap" or "all"'):
        rehearse(second, "lora", one, too_large)


def test_the_rehearsal_has_the_optimizers_moments_beside_it(folder, monkeypatch):
    held = []

    def rehearsal(*_) -> None:
        held.extend(len(optimizer.state) for optimizer in made)
        raise KeyboardInterrupt

    made, own = [], new_optimizer
    new = "tasks.train.loop.new_optimizer"
    monkeypatch.setattr(new, lambda *asked: made.append(own(*asked)) or made[-1])
    monkeypatch.setattr("tasks.train.loop.rehearse", rehearsal)
    worker = new_worker(folder, Stage.ALIGNMENT)
    with pytest.raises(KeyboardInterrupt):
        _train_part(worker, "lora", resumed=None)
    parameters = [p for p in worker.model.parameters() if p.requires_grad]
    assert held == [len(parameters)] and held[0] > 0
    for parameter in parameters:
        state = made[0].state[parameter]
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
        assert not float(state["step"]) and not state["exp_avg"].any()


@pytest.mark.parametrize("fused", [None, True])
def test_moments_that_were_there_before_change_no_bit_of_the_steps(fused):
    found = []
    for allocated in (False, True):
        draw = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(7, 5, generator=draw)) for _ in range(3)]
        optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.1, fused=fused)
        if allocated:
            allocate_moments(optimizer)
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(7, 5, generator=draw)
            optimizer.step()
        found.append([*weights, *(t for w in weights for t in optimizer.state[w].values())])
    for without, with_them in zip(*found, strict=True):
        assert torch.equal(without, with_them) and without.dtype == with_them.dtype


def test_a_later_step_that_does_not_fit_ends_the_run_with_what_to_do(folder, monkeypatch):
    own = LOSSES["lora"]

    def losses(worker, items, step, part):
        yield from own(worker, items, step, part)
        if len(worker.losses) == 2:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setitem(LOSSES, "lora", losses)
    words = "at a time at step 3, though.*micro_batch below 8.*tried to allocate 20 GiB"
    with pytest.raises(FINAL, match=words):
        through_part(new_worker(folder, Stage.ALIGNMENT), "lora", monkeypatch)


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


@pytest.mark.parametrize(("gpus", "used"), [(0, False), (1, False), (2, True), (8, True)])
def test_gpus_that_are_too_few_for_all_workers_are_told(gpus, used, capsys):
    config = TrainConfig(stage=Stage.ALIGNMENT, parts=PARTS[Stage.ALIGNMENT], method=METHOD)
    assert on_gpus(config, gpus) == used
    told = capsys.readouterr().err
    assert told.count("\n") == (gpus == 1)
    assert gpus != 1 or "2 workers and 1 GPUs in the cluster, so it trains on CPUs" in told


# --- the guard's calibration ---


@pytest.mark.parametrize(("micro", "most", "half"), [(3, 3, False), (None, 8, False), (3, 3, True)])
def test_the_guard_is_calibrated_in_float32_by_no_more_items_than_its_part_trains(
    micro, most, half, folder, tmp_path, monkeypatch
):
    changes = {"precision": "bf16"} if half else {}
    concept = PartConfig(**{**dict(PART), "micro_batch": micro})
    parts = {"concept": concept, "tokens": PartConfig(**{**dict(PART), "micro_batch": 1})}
    worker = with_config(new_worker(folder, Stage.CONCEPTS), parts=parts, workers=1, **changes)
    (tmp_path / "rows").mkdir()
    rows = [{**row, "split": "calibration"} for row in CONTENT]
    pq.write_table(pa.Table.from_pylist(rows, ROWS), tmp_path / "rows" / "part-0.parquet")
    asked, own = [], worker.model.concept_logits

    def logits(features, questions):
        found = own(features, questions)
        asked.append((len(questions), found[0].dtype))
        return found

    monkeypatch.setattr(worker.model, "concept_logits", logits)
    policy = calibrate(worker, SimpleNamespace(local=lambda _: tmp_path))
    sizes = [size for size, _ in asked]
    assert max(sizes) == most and sum(sizes) == sum(bool(row["image_ids"]) for row in CONTENT)
    assert {kind for _, kind in asked} == {torch.float32}
    assert policy.calibrated_on


# --- checkpoints ---


def started(worker: Worker, part: str) -> tuple[dict, torch.optim.AdamW]:
    """The parameters of a part of the worker's stage, and an optimizer over them."""
    names = freeze_for(worker.model, worker.job.config.stage, part)
    parameters = {name: worker.model.get_parameter(name) for name in names}
    return parameters, new_optimizer(list(parameters.values()), PART)


def trained(worker: Worker, part: str, steps: int) -> tuple[dict, torch.optim.AdamW]:
    """The loop's own steps and notes, without Ray."""
    parameters, optimizer = started(worker, part)
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
    write_checkpoint(worker, path, snapshot(worker, parameters, optimizer, state))
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
    again, optimizer = started(other, "concept")
    note = {"data": other.data.digest, "workers": 1, "device": "cpu", "unrepeatable": []}
    assert restore_optimizer(other, again, optimizer).note == note
    assert all(optimizer.state[p]["exp_avg"].any() for p in again.values())
    assert other.stored is None


def test_a_checkpoint_from_when_it_held_the_weights_twice_is_still_read(
    checkpoint, folder, tmp_path
):
    path, worker, parameters = checkpoint
    old = shutil.copytree(path, tmp_path / "old")
    _, optimizer = started(new_worker(folder, Stage.CONCEPTS), "concept")
    state = TrainingState.model_validate_json((path / STATE / "state.json").read_bytes())
    moments = read_tensors(path / STATE / "state.safetensors")
    assert not any(name.startswith(PARAMETER) for name in moments)
    twice = {PARAMETER + name: p.detach() for name, p in parameters.items()}
    save_state(old / STATE, moments | twice, state)
    other = new_worker(folder, Stage.CONCEPTS)
    read_checkpoint(other, old)
    again, optimizer = started(other, "concept")
    assert restore_optimizer(other, again, optimizer).step == 3
    assert all(torch.equal(again[name], p) for name, p in parameters.items())


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
    with pytest.raises(
        TrainingError, match=r"other data, workers or devices \(data [0-9a-f]{64}, now"
    ):
        read_checkpoint(other, path)
    # Other rows in the same order.
    changed = write_set(tmp_path)
    rows = [{**row, "sample_id": f"x{row['sample_id']}"} for row in CONTENT]
    shutil.rmtree(changed / "balanced" / "rows")
    (changed / "balanced" / "rows").mkdir()
    schema = pq.read_schema(next((folder / "balanced" / "rows").iterdir()))
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, changed / "balanced" / "rows" / "part-0.parquet")
    with pytest.raises(TrainingError, match="other data, workers or devices"):
        read_checkpoint(new_worker(changed, Stage.CONCEPTS), path)
    with pytest.raises(TrainingError, match="workers 1, now 2"):
        read_checkpoint(new_worker(folder, Stage.CONCEPTS, rank=0, world=2), path)


def test_a_checkpoint_of_a_gpu_is_refused_where_there_is_none_any_more(
    checkpoint, folder, tmp_path
):
    path = shutil.copytree(checkpoint[0], tmp_path / "copy")
    state = json.loads((path / STATE / "state.json").read_text())
    assert state["note"]["device"] == "cpu"
    state["note"]["device"] = "cuda"
    (path / STATE / "state.json").write_text(json.dumps(state))
    with pytest.raises(TrainingError, match=r"devices \(device cuda, now cpu\).*Bring them back"):
        read_checkpoint(new_worker(folder, Stage.CONCEPTS), path)
    del state["note"]["device"]  # as of earlier releases
    (path / STATE / "state.json").write_text(json.dumps(state))
    assert read_checkpoint(new_worker(folder, Stage.CONCEPTS), path).step == 3


def test_what_is_trained_on_is_one_hash(folder):
    worker = new_worker(folder, Stage.CONCEPTS)
    ids = "\n".join(row["sample_id"] for row in CONTENT)
    text = ids.encode() + np.array(PLAN, "<i8").tobytes()
    assert worker.data.digest == hashlib.sha256(text).hexdigest()
    assert holding(worker, PLAN[1:]).data.digest != worker.data.digest


# --- the way of a checkpoint, with Ray's part played here ---


class Ray:
    """What `ray.train` does for a checkpoint; a copy beside the steps when it is `asked` for."""

    def __init__(self, monkeypatch, run: Path) -> None:
        self.run, self.asked, self.opened = run, [], []
        monkeypatch.setattr(ray.train, "report", self.report)
        monkeypatch.setattr(ray.train, "get_context", lambda: self)
        monkeypatch.setattr(ray.train, "get_checkpoint", lambda: self)
        monkeypatch.setattr(ray.train, "get_all_reported_checkpoints", list)

    def report(self, metrics, *, checkpoint, checkpoint_upload_mode, checkpoint_upload_fn) -> None:
        name = f"checkpoint_{len(self.asked)}"
        self.asked.append(partial(checkpoint_upload_fn, checkpoint, name))
        if checkpoint_upload_mode is ray.train.CheckpointUploadMode.SYNC:
            self.asked[-1]()

    def get_storage(self) -> "Ray":
        return self

    def persist_current_checkpoint(self, checkpoint, name: str):
        self.path = shutil.copytree(checkpoint.path, self.run / name)
        return checkpoint

    @contextlib.contextmanager
    def as_directory(self) -> Iterator[str]:
        """As from a bucket: a copy of its own each time, and gone afterwards."""
        self.opened.append(shutil.copytree(self.path, self.run / f"opened_{len(self.opened)}"))
        yield str(self.opened[-1])
        shutil.rmtree(self.opened[-1])


@pytest.fixture
def drafts(tmp_path, monkeypatch) -> Path:
    """The folder of drafts."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def under_way(folder, drafts, tmp_path, monkeypatch) -> tuple[Ray, Worker, dict, tuple]:
    """A worker after a step, and how it reports a checkpoint."""
    worker = new_worker(folder, Stage.CONCEPTS)
    parameters, optimizer = trained(worker, "concept", 1)
    state = TrainingState(stage=Stage.CONCEPTS, part="concept", step=1)
    return Ray(monkeypatch, tmp_path), worker, parameters, (worker, parameters, optimizer, state)


def test_the_steps_go_on_while_a_checkpoint_is_written_that_holds_what_was_before(
    under_way, drafts, monkeypatch
):
    ours, worker, parameters, told = under_way
    before = {name: p.detach().clone() for name, p in parameters.items()}
    gate = threading.Event()

    def slowly(*given) -> None:
        assert gate.wait(60)
        write_checkpoint(*given)

    monkeypatch.setattr(saving, "write_checkpoint", slowly)
    report_checkpoint(*told, metrics={})
    with torch.no_grad():  # what a step does
        for group in (parameters.values(), *(s.values() for s in told[2].state.values())):
            for tensor in group:
                tensor.add_(1.0)
    worker.losses.append({"part": "concept", "step": 2})
    gate.set()
    (copied,) = ours.asked
    copied()
    assert damage(ours.path) == "" and not list(drafts.iterdir())
    other = new_worker(Path(worker.job.root).parent, Stage.CONCEPTS)
    assert restore(other).step == 1 and len(other.losses) == 1
    again, optimizer = started(other, "concept")
    restore_optimizer(other, again, optimizer)
    for name, parameter in again.items():
        assert torch.equal(parameter, before[name])
        moments = told[2].state[parameters[name]]["exp_avg"] - 1.0
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], moments)
    assert len(ours.opened) == 1  # and both readers have read what was found to be sound


def test_a_checkpoint_that_cannot_be_written_ends_the_training_and_leaves_no_draft(
    under_way, drafts, monkeypatch
):
    ours, worker, _, told = under_way

    def full(worker: Worker, folder: Path, kept) -> None:
        (folder / WEIGHTS).write_bytes(b"x" * 1000)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "write_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        report_checkpoint(*told, metrics={}, now=True)
    assert not list(drafts.iterdir())
    report_checkpoint(*told, metrics={})
    with pytest.raises(OSError, match="No space left"):
        ours.asked[-1]()
    assert not list(drafts.iterdir())
    with pytest.raises(OSError, match="No space left"):  # whoever asks first tells it
        report_checkpoint(*told, metrics={})
    worker.writing = None
    monkeypatch.setattr(ray.train, "report", len)  # which takes no such arguments
    with pytest.raises(TypeError):
        report_checkpoint(*told, metrics={})
    assert not list(drafts.iterdir())


KILLED = """
import sys, tempfile, time
from pathlib import Path
from model.training_state import TrainingState
from schemas.config import Stage
from tasks.train import saving
from tests.test_train_exact import new_worker, trained

def never(folder):
    print(folder, flush=True)
    time.sleep(600)

saving.seal = never
tempfile.tempdir = sys.argv[2]
worker = new_worker(Path(sys.argv[1]), Stage.CONCEPTS)
parameters, optimizer = trained(worker, "concept", 1)
state = TrainingState(stage=Stage.CONCEPTS, part="concept", step=1)
kept = saving.snapshot(worker, parameters, optimizer, state)
saving.write_checkpoint(worker, saving.new_draft(worker), kept)
"""


def test_what_a_worker_that_was_killed_has_left_of_this_run_is_removed_by_the_next(
    under_way, folder, drafts
):
    ours, worker, _, told = under_way
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(drafts)],
        stdout=subprocess.PIPE, text=True, env=environment,
    ) as other:  # fmt: skip
        left = Path(other.stdout.readline().strip())
        mine = new_draft(worker)
        living = left.is_dir()
        other.kill()
    assert living and (left / WEIGHTS).stat().st_size > 0
    (another_run := drafts / left.name.replace("-store-", "-another-")).mkdir()
    report_checkpoint(*told, metrics={}, now=True)
    assert sorted(drafts.iterdir()) == sorted([mine, another_run])
    assert damage(ours.path) == ""
