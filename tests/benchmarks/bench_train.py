"""Training on the CPU beside other ways to the same result; ratios are taken within one run."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from model.steps import seed_step
from schemas.config import Stage
from tasks.train.loop import backward
from tests.benchmarks.record import record
from tests.benchmarks.train_loops import (
    TINY,
    Bench,
    _encode_again,
    counted,
    joint,
    ours,
    trainer,
    uncached,
)

STEPS = int(os.environ.get("STEPS", 8))


@pytest.mark.timeout(3600)
def test_speed_of_training_beside_joint_padded_and_trainer_loops(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    bench = Bench(TINY, tmp_path)
    found = {**_concepts(bench), **_lengths(bench), **_stage2(bench)}
    record("train", {name: float(f"{value:.4g}") for name, value in found.items()})


def _concepts(bench: Bench) -> dict[str, float]:
    part = bench.part(steps=STEPS + 1, micro=None)
    worker = bench.worker(Stage.CONCEPTS, "concept", part)
    items = worker.items(0, part)
    cached_flops = counted(partial(backward, worker, "concept", items, 0, part))
    encoder_flops = counted(partial(_encode_again, bench, worker, items))
    worker.model.zero_grad(set_to_none=True)
    cached, _ = ours(worker, "concept", part, steps=STEPS)
    again, _ = uncached(bench, steps=STEPS)
    both, _ = joint(bench, steps=max(2, STEPS // 4))
    predicted = (cached_flops + encoder_flops) / cached_flops
    return {
        "cached_step_seconds": cached,
        "uncached_over_cached": again / cached,
        "uncached_over_cached_predicted": predicted,
        "share_of_predicted_gain": (again / cached) / predicted,
        "joint_over_cached": both / cached,
    }


def _lengths(bench: Bench) -> dict[str, float]:
    """A whole batch padded to its longest item, and the same in micro-batches by length."""
    seconds, losses = {}, {}
    for micro in (None, bench.shape.micro):
        part = bench.part(steps=STEPS + 1, micro=micro)
        worker = bench.worker(Stage.ALIGNMENT, "lora", part)
        seed_step(0, 0, 0)
        losses[micro] = backward(worker, "lora", worker.items(0, part), 0, part)["loss"]
        worker.model.zero_grad(set_to_none=True)
        seconds[micro], _ = ours(worker, "lora", part, steps=STEPS)
    apart = abs(losses[None] - losses[bench.shape.micro])
    assert apart < 1e-5
    return {"padded_over_sorted": seconds[None] / seconds[bench.shape.micro], "loss_apart": apart}


def _stage2(bench: Bench) -> dict[str, float]:
    part = bench.part(steps=STEPS + 1, micro=bench.shape.micro)
    mine, _ = ours(bench.worker(Stage.ALIGNMENT, "lora", part), "lora", part, steps=STEPS)
    theirs = trainer(bench, steps=STEPS)
    return {"lora_step_seconds": mine, "trainer_over_ours": theirs / mine}
