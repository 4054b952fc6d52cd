"""Several workers: they add up to one, also where each keeps but its part of every layer (FSDP2).

Run as a script, this file is all of them (see `_all_workers`).
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch.distributed.tensor import DTensor

from model.checkpoint import BaseReference, load_model, save_model
from model.precision import recompute
from model.psavlm import PsaVlm
from model.shards import shard_layers
from model.stages import freeze_for
from model.steps import apply_gradients, new_optimizer, seed_step
from model.tensors import read_tensors
from model.training_state import TrainingState, load_state
from schemas.config import MethodConfig, PartConfig, Stage, TrainConfig
from tasks.train.faults import culprits
from tasks.train.loop import backward
from tasks.train.losses import LOSSES
from tasks.train.rehearsal import rehearse
from tasks.train.repeat import choose_kernels, repeatably
from tasks.train.reporter import Reporter
from tasks.train.saving import STATE, WEIGHTS, read_checkpoint, snapshot, write_checkpoint
from tasks.train.seal import damage
from tasks.train.worker import Worker
from tests.test_train_parts import (
    HINTS,
    METHOD,
    PART,
    PARTS,
    TAXONOMY,
    new_backbone,
    new_data,
    new_job,
    new_worker,
    write_set,
)

torch.set_num_threads(1)
FULL = MethodConfig.model_validate({**METHOD.model_dump(), "stage2": "full"})
# One item at a time: some have no image and some no answer, and not the same ones on both workers.
ONE = PartConfig(**{**dict(PART), "micro_batch": 1, "clip_norm": 0.5})
ENDED, SAVED = 4, 2
CARD = {"stage": Stage.ALIGNMENT, "method": FULL, "taxonomy": TAXONOMY, "hints": HINTS}
VARIANTS = (
    {"precision": "bf16", "recompute": "cheap"},
    {"recompute": "all"},
)


# Workers by the items that each of them takes at a time: a global batch of 8 in all of them.
WORLDS = {1: 8, 2: 4, 4: 2}
STEPS = 2


def steps(
    folder: Path, *, rank: int, world: int, micro: int | None
) -> dict[str, list[torch.Tensor]]:
    """Per part: loss and gradients of some steps, as the loop computes them."""
    found = {}
    for stage, parts in PARTS.items():
        worker = new_worker(folder, stage, rank=rank, world=world)
        worker.model.train()
        for name, settings in parts.items():
            part = PartConfig(**{**dict(settings), "micro_batch": micro})
            names = freeze_for(worker.model, stage, name)
            parameters = [worker.model.get_parameter(n) for n in names]
            found[name] = []
            for step in range(STEPS):
                seed_step(0, step, rank)
                worker.model.zero_grad(set_to_none=True)
                loss = backward(worker, name, worker.items(step, part), step, part)["loss"]
                gradients = [p.grad.reshape(-1) for p in parameters]
                found[name].append(torch.cat([torch.tensor([loss]), *gradients]))
    return found


def full_worker(folder: Path, *, rank: int = 0, world: int = 1, **changes) -> Worker:
    job = new_job(Stage.ALIGNMENT, folder)
    settings = {"stage": Stage.ALIGNMENT, "parts": {"full": ONE}, "method": FULL}
    config = TrainConfig(**settings, workers=world, **changes)
    job = type(job).model_validate({**dict(job), "config": config})
    model = PsaVlm.new(new_backbone(), FULL, types=7, levels=4)
    recompute(model.backbone, config.recompute)
    if config.shard == "fsdp":
        half = config.precision == "bf16"
        shard_layers(model.backbone, torch.device("cpu"), workers=world, half=half)
    return Worker(job, model.train(), new_data(folder), rank, world, Reporter(job, rank))


class Run:
    """A worker on its way through the steps, as the loop goes it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        names = freeze_for(worker.model, Stage.ALIGNMENT, "full")
        self.parameters = {name: worker.model.get_parameter(name) for name in names}
        self.optimizer = new_optimizer(list(self.parameters.values()), ONE)
        self.curve: list[tuple[float, float]] = []

    def steps(self, first: int, last: int) -> "Run":
        for step in range(first, last):
            seed_step(0, step, self.worker.rank)
            items = self.worker.items(step, ONE)
            self.optimizer.zero_grad(set_to_none=True)
            loss = backward(self.worker, "full", items, step, ONE)["loss"]
            done = apply_gradients(loss, self.optimizer, step=step, part=ONE)
            self.curve.append((loss, done.gradient_norm))
            point = {"part": "full", "step": step + 1, "loss": loss, "lr": done.rate}
            self.worker.note({**point, "gradient_norm": done.gradient_norm}, items)
        return self

    def save(self, folder: Path, step: int) -> None:
        self.worker.gather_order()
        state = TrainingState(stage=Stage.ALIGNMENT, part="full", step=step)
        kept = snapshot(self.worker, self.parameters, self.optimizer, state)
        assert (kept is not None) == (self.worker.rank == 0)
        if kept is not None:
            folder.mkdir()
            write_checkpoint(self.worker, folder, kept)
            base = BaseReference(name="b")
            model = folder.with_name(f"{folder.name}-model")
            save_model(model, self.worker.model, base=base, language=kept.language, **CARD)


def in_shards(folder: Path, rank: int) -> None:
    """What one of two workers does with its half of the layers; it leaves its curves."""
    place = {"rank": rank, "world": 2, "shard": "fsdp"}
    run = Run(full_worker(folder, **place)).steps(0, SAVED)
    parts = [p for p in run.parameters.values() if isinstance(p, DTensor)]
    sizes = [sum(p.to_local().numel() for p in parts), sum(p.numel() for p in parts)]
    run.save(folder / "saved", SAVED)
    run.steps(SAVED, ENDED).save(folder / "ended", ENDED)
    named = culprits(run.worker, "full", run.worker.items(0, ONE), 0, ONE)
    dist.barrier()
    again = full_worker(folder, **place)
    assert read_checkpoint(again, folder / "saved").step == SAVED
    resumed = Run(again)
    rehearse(again, "full", ONE, partial(backward, again, "full"))  # as the loop does
    load_state(again.stored, resumed.parameters, resumed.optimizer)
    resumed.steps(SAVED, ENDED).save(folder / "resumed", ENDED)
    others = [Run(full_worker(folder, **place, **own)).steps(0, 1).curve for own in VARIANTS]
    found = {"curve": run.curve, "others": others, "sizes": sizes, "named": named}
    torch.save(found, folder / f"shards-{rank}.pt")


def met_by_one(folder: Path, rank: int) -> tuple[list[float], set[str]]:
    """Losses of a step without and with an operation of the last worker that cannot repeat."""
    worker = new_worker(folder, Stage.ALIGNMENT, rank=rank, world=2)
    freeze_for(worker.model, Stage.ALIGNMENT, "lora")
    choose_kernels()
    worker.strict, own = True, LOSSES["lora"]

    def losses(*asked: Any) -> Iterator[torch.Tensor]:
        for share in own(*asked):
            if rank == 1:
                pooled = torch.nn.functional.max_pool2d(torch.ones(1, 4, 4), 2, return_indices=True)
                torch.nn.functional.max_unpool2d(*pooled, 2)
            yield share

    def step() -> float:
        worker.model.zero_grad(set_to_none=True)
        return backward(worker, "lora", worker.items(0, ONE), 0, ONE)["loss"]

    found = [step()]
    LOSSES["lora"] = losses
    found.append(repeatably(worker, step))
    LOSSES["lora"] = own
    torch.use_deterministic_algorithms(False)
    return found, worker.model.unrepeatable


def _one_of(folder: Path, rank: int, world: int) -> None:
    """What one of several workers runs; each leaves what it found."""
    meeting, limit = f"file://{folder}/meeting-{world}", timedelta(seconds=300)
    dist.init_process_group("gloo", meeting, timeout=limit, rank=rank, world_size=world)
    found = steps(folder, rank=rank, world=world, micro=WORLDS[world])
    torch.save(found, folder / f"{world}-{rank}.pt")
    if world == 2:
        torch.save(met_by_one(folder, rank), folder / f"met-{rank}.pt")
        in_shards(folder, rank)
    dist.destroy_process_group()


def _all_workers(folder: Path) -> None:
    """What the process of the test runs: it imports all once, and its forks are the workers."""
    for world in list(WORLDS)[1:]:
        fork = multiprocessing.get_context("fork")
        workers = [fork.Process(target=_one_of, args=(folder, r, world)) for r in range(world)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(300)
        if any(worker.exitcode != 0 for worker in workers):
            sys.exit(f"of {world} workers: {[worker.exitcode for worker in workers]}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all workers have left what they found."""
    folder = write_set(tmp_path_factory.mktemp("set"))
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    settings["GLOO_SOCKET_IFNAME"] = "lo"
    new_data(folder)  # one writer
    script = [sys.executable, __file__, str(folder)]
    done = subprocess.run(
        script, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


# --- with all weights ---


@pytest.fixture(scope="module")
def found(folder) -> dict[tuple[int, int], dict[str, list[torch.Tensor]]]:
    """What every worker of every world has found."""
    ranks = [(world, rank) for world in list(WORLDS)[1:] for rank in range(world)]
    alone = {(1, 0): steps(folder, rank=0, world=1, micro=None)}
    return {**alone, **{at: torch.load(folder / f"{at[0]}-{at[1]}.pt") for at in ranks}}


@pytest.mark.parametrize("world", [2, 4])
def test_more_workers_with_fewer_items_at_a_time_have_the_loss_and_the_gradients_of_one(
    world, folder, found
):
    data = new_data(folder)
    shares = [[data.batch(step, 8, rank, world) for rank in range(world)] for step in range(STEPS)]
    with_image = [[sum(i.image_id is not None for i in one) for one in step] for step in shares]
    taught = [[sum(i.teaches_language for i in one) for one in step] for step in shares]
    # A mean of the workers' means would be wrong here.
    assert any(len(set(step)) > 1 for step in with_image + taught)
    for name, expected in found[1, 0].items():
        assert len(expected) == STEPS and all(float(e[0]) > 0 for e in expected)
        for step, one in enumerate(expected):
            mine = [found[world, rank][name][step] for rank in range(world)]
            assert all(torch.equal(mine[0], theirs) for theirs in mine)
            assert float(mine[0][0]) == pytest.approx(float(one[0]), rel=1e-6)
            assert torch.allclose(mine[0][1:], one[1:], atol=1e-5, rtol=1e-4)
            assert one[1:].abs().max() > 1e-3


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_micro_batches_of_any_size_have_the_loss_and_the_gradients_of_the_whole(
    micro, folder, found
):
    pieces = steps(folder, rank=0, world=1, micro=micro)
    for name, expected in found[1, 0].items():
        for one, other in zip(expected, pieces[name], strict=True):
            assert float(other[0]) == pytest.approx(float(one[0]), rel=1e-6)
            assert torch.allclose(other[1:], one[1:], atol=1e-5, rtol=1e-4)


def test_what_one_worker_cannot_repeat_is_done_again_by_all(folder):
    for rank in range(2):
        (before, after), named = torch.load(folder / f"met-{rank}.pt")
        assert before == after > 0
        assert named == {"max_unpooling2d_forward_out"}


# --- in shards ---


@pytest.fixture(scope="module")
def shards(folder) -> list[dict]:
    return [torch.load(folder / f"shards-{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone(folder) -> Run:
    run = Run(full_worker(folder)).steps(0, ENDED)
    run.save(folder / "alone", ENDED)
    return run


def test_each_worker_keeps_its_half_of_the_layers(shards):
    for own in shards:
        here, every = own["sizes"]
        assert every > 20_000 and here == pytest.approx(every / 2, rel=0.05)


def test_losses_gradients_and_weights_are_those_of_one_worker_with_all(folder, shards, alone):
    assert shards[0]["curve"] == shards[1]["curve"]
    for mine, one in zip(shards[0]["curve"], alone.curve, strict=True):
        assert mine == pytest.approx(one, rel=1e-6)
    mine, one = (read_tensors(folder / name / WEIGHTS) for name in ("ended", "alone"))
    assert mine.keys() == one.keys()
    begun = full_worker(folder).model
    for name, tensor in one.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=2e-5)
        if name.startswith("llava."):
            before = begun.get_parameter(f"backbone.vlm.{name.removeprefix('llava.')}")
            assert float((tensor - before).abs().max()) > 1e-3
    assert sum(name.startswith("llava.") for name in one) == len(alone.parameters)


def test_a_checkpoint_of_shards_is_whole_and_sealed_and_goes_on_with_the_same_bits(folder):
    names = [f.name for f in (folder / "saved").rglob("*") if f.is_file()]
    alike = [f.name for f in (folder / "resumed").rglob("*") if f.is_file()]
    assert sorted(names) == sorted(alike) and not damage(folder / "saved")
    for file in (WEIGHTS, f"{STATE}/state.safetensors"):
        undisturbed, resumed = (folder / run / file for run in ("ended", "resumed"))
        assert undisturbed.read_bytes() == resumed.read_bytes()
        assert undisturbed.read_bytes() != (folder / "saved" / file).read_bytes()


def test_the_model_of_shards_has_the_files_of_any_other_and_loads_like_it(folder, alone):
    files = {f.name for f in (folder / "alone-model").iterdir()}
    assert {f.name for f in (folder / "ended-model").iterdir()} == files
    model, card = load_model(folder / "ended-model", new_backbone())
    assert card.full
    for name, parameter in alone.parameters.items():
        close = {"rtol": 0, "atol": 2e-5}
        torch.testing.assert_close(model.get_parameter(name), parameter, **close)


def test_half_precision_and_recomputing_are_near_the_same_without_shards(folder, shards):
    for number, own in enumerate(VARIANTS):
        curve = Run(full_worker(folder, **own)).steps(0, 1).curve
        near = 0.01 if "precision" in own else 1e-6
        for mine, one in zip(shards[0]["others"][number], curve, strict=True):
            assert mine == pytest.approx(one, rel=near)


def test_all_workers_look_for_the_culprits_together(shards):
    assert shards[0]["named"] == shards[1]["named"] != ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": METHOD}, "the language model that stage2 trains itself"),
        ({"stage": Stage.CONCEPTS}, "the language model that stage2 trains itself"),
        ({"workers": 1}, "nobody to share with"),
    ],
)
def test_shards_of_what_does_not_train_are_refused(changes, words):
    whole = {"stage": Stage.ALIGNMENT, "method": FULL, "parts": {"full": PART}}
    with pytest.raises(ValidationError, match=words):
        TrainConfig(**{**whole, "shard": "fsdp", **changes})


def test_a_stage_without_shards_says_nothing_of_them_in_its_fingerprint():
    plain = TrainConfig(stage=Stage.ALIGNMENT, method=FULL, parts={"full": PART})
    assert "shard" not in plain.model_dump()
    assert TrainConfig(**{**dict(plain), "shard": "fsdp"}).model_dump()["shard"] == "fsdp"


if __name__ == "__main__":
    _all_workers(Path(sys.argv[1]))
