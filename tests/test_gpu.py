"""What only a GPU can show, at a tiny shape. `make test` leaves it out: `pytest -m gpu tests`.

Each body takes its device from the fixture, so that it runs on the CPU as well where that has what
it needs.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from model.backbone import Backbone
from model.lora import lora_parameters
from model.packing import FLASH, attention_of
from model.stages import freeze_for
from model.steps import apply_gradients, new_optimizer, seed_step
from model.tiny_llava import new_processor
from model.training_state import TrainingState
from schemas.config import Stage
from tasks.encode import FeatureCache
from tasks.train.loop import backward
from tasks.train.meter import Meter
from tasks.train.saving import read_checkpoint, restore_optimizer, snapshot, write_checkpoint
from tasks.train.worker import Worker, choose_kernel
from tests.test_four_bit import wide_backbone
from tests.test_train_exact import learned, with_config
from tests.test_train_parts import PART, new_worker, write_set
from tests.to_encode import PNGS, Run

pytestmark = [
    pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]  # fmt: skip
IDS = sorted(PNGS)


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    """As a worker computes (tasks/train/worker.py)."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", 0)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_set(tmp_path)


def worker_on(device: torch.device, folder: Path) -> Worker:
    """A worker of stage 2 with its model there."""
    worker = new_worker(folder, Stage.ALIGNMENT)
    worker.model.to(device).train()
    freeze_for(worker.model, Stage.ALIGNMENT, "lora")
    return replace(worker, meter=Meter(device))


class Training:
    """A worker on its way through the steps of its part, as the loop goes it."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.losses = worker, []
        self.parameters = {n: p for n, p in worker.model.named_parameters() if p.requires_grad}
        self.optimizer = new_optimizer(list(self.parameters.values()), PART)

    def steps(self, first: int, last: int) -> "Training":
        for step in range(first, last):
            seed_step(0, step, 0)
            self.optimizer.zero_grad(set_to_none=True)
            items = self.worker.items(step, PART)
            loss = backward(self.worker, "lora", items, step, PART)["loss"]
            apply_gradients(loss, self.optimizer, step=step, part=PART)
            self.losses.append(loss)
        return self


def test_a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(device, folder, tmp_path):
    whole = Training(worker_on(device, folder)).steps(0, 6)
    first = Training(worker_on(device, folder)).steps(0, 3)
    state = TrainingState(stage=Stage.ALIGNMENT, part="lora", step=3)
    kept = snapshot(first.worker, first.parameters, first.optimizer, state)
    (tmp_path / "checkpoint").mkdir()
    write_checkpoint(first.worker, tmp_path / "checkpoint", kept)
    second = Training(worker_on(device, folder))
    read_checkpoint(second.worker, tmp_path / "checkpoint")
    assert restore_optimizer(second.worker, second.parameters, second.optimizer).step == 3
    second.steps(3, 6)
    assert bool(whole.optimizer.defaults["fused"]) == (device.type == "cuda")
    assert first.losses + second.losses == whole.losses
    for name, parameter in whole.parameters.items():
        assert torch.equal(second.parameters[name], parameter), name


def test_packed_items_have_the_loss_and_the_gradients_of_padded_ones(device, folder):
    pytest.importorskip("flash_attn")
    worker = with_config(worker_on(device, folder), precision="bf16")
    worker.model.backbone.vlm.to(torch.bfloat16)
    for parameter in lora_parameters(worker.model.backbone).values():
        parameter.data = parameter.data.float()
    padded, gradients = learned(worker)
    choose_kernel(worker.model, worker.job.config, device)
    assert attention_of(worker.model.backbone) == FLASH and worker.model.packs
    packed, same = learned(worker)
    assert packed == pytest.approx(padded, rel=0.02)
    assert float(torch.cosine_similarity(same, gradients, dim=0)) > 0.99


def test_a_base_in_four_bits_is_near_the_one_in_sixteen(device, tmp_path):
    pytest.importorskip("bitsandbytes")
    made = wide_backbone()
    made.vlm.save_pretrained(tmp_path)
    new_processor(made.tokenizer).save_pretrained(tmp_path)
    four = Backbone.load(str(tmp_path), dtype=torch.bfloat16, four_bit_on=device)
    half = Backbone.load(str(tmp_path), dtype=torch.bfloat16)
    half.vlm.to(device)
    assert four.quantised and not half.quantised
    assert four.device.type == half.device.type == device.type
    near, exact = (states(backbone) for backbone in (four, half))
    assert not torch.equal(near, exact)
    assert float(torch.cosine_similarity(near, exact, dim=0)) > 0.95


@torch.no_grad()
def states(backbone: Backbone) -> torch.Tensor:
    """Last hidden states of one prompt, as one vector of float32."""
    ids = torch.arange(20, device=backbone.device)[None]
    embeds = backbone.embed(ids).to(backbone.dtype)
    return backbone.hidden(embeds, torch.ones_like(ids), ids).float().reshape(-1)


def test_the_sums_of_one_worker_over_its_collectives_are_its_own(device, folder, tmp_path):
    worker = worker_on(device, folder)
    loss, gradients = learned(worker)
    backend = "nccl" if device.type == "cuda" else "gloo"
    meeting, limit = f"file://{tmp_path}/meeting", timedelta(seconds=120)
    dist.init_process_group(backend, meeting, timeout=limit, rank=0, world_size=1)
    try:
        summed, same = learned(worker)
        worker.gather_order()  # objects go by the same backend
    finally:
        dist.destroy_process_group()
    assert summed == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(same, gradients, rtol=1e-4, atol=1e-6)


def test_features_in_half_are_near_those_of_the_cpu_in_full(device, tmp_path):
    run = Run(tmp_path / "store", "llava")
    made = run.encoded(IDS, precision="bf16", dtype="bfloat16")
    if device.type == "cuda":
        assert torch.cuda.max_memory_allocated(device) > 0
    for name, found in zip(IDS, FeatureCache(made).batch(IDS), strict=True):
        exact = run.directly(name)
        assert found.shape == exact.shape
        assert float(torch.cosine_similarity(found, exact, dim=-1).min()) > 0.999
