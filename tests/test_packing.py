"""Items in one row: the same states, losses and gradients as padded, and only where it pays."""

import pytest
import torch
from torch import Tensor

from model.batches import PromptBatch
from model.losses import IGNORED
from model.packing import (
    FLASH,
    attend_by,
    attention_of,
    best_attention,
    can_pack,
    in_one_row,
)
from model.stages import freeze_for
from schemas.config import Stage, TrainConfig
from tasks.train.loop import backward
from tasks.train.showing import prompt_of
from tasks.train.worker import Worker, choose_kernel
from tests.test_train_parts import METHOD, PART, PARTS, new_worker, write_set

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Worker:
    worker = new_worker(write_set(tmp_path_factory.mktemp("set")), Stage.ALIGNMENT)
    freeze_for(worker.model, Stage.ALIGNMENT, "lora")
    worker.model.train()
    return worker


@pytest.fixture
def batch(worker) -> PromptBatch:
    """Eight items: with images and without, of several lengths."""
    items = worker.items(0, PART)
    return worker.model.compose(
        worker.data.features_of(items),
        [prompt_of(worker, item, 0, PART) for item in items],
        use_tokens=True,
        training=True,
    )


def between(batch: PromptBatch) -> Tensor:
    """[1, 1, M, M] in words of attention: 0 where a position sees another, else no chance."""
    items = batch.mask.bool().nonzero()[:, 0]
    same = items[:, None] == items[None]
    seen = same & torch.ones_like(same).tril()
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]


def test_a_row_has_every_item_once_with_its_own_positions_and_no_padding(batch):
    row = in_one_row(batch)
    lengths = batch.mask.sum(1).tolist()
    assert len(set(lengths)) > 2 and min(lengths) < batch.mask.shape[1]
    assert row.embeds.shape[:2] == row.labels.shape == (1, sum(lengths))
    assert row.positions[0].tolist() == [place for n in lengths for place in range(n)]
    parts = zip(row.embeds[0].split(lengths), row.labels[0].split(lengths), strict=True)
    for number, (embeds, labels) in enumerate(parts):
        assert torch.equal(embeds, batch.embeds[number, : len(embeds)])
        # The last token of the item before must not be taught to predict this one's first.
        assert labels[0] == IGNORED
        assert torch.equal(labels[1:], batch.labels[number, 1 : len(labels)])


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@torch.no_grad()
def test_the_states_of_a_row_are_those_of_the_padded_items(kernel, worker, batch):
    backbone, row = worker.model.backbone, in_one_row(batch)
    attend_by(backbone, kernel)
    assert attention_of(backbone) == kernel
    padded = backbone.hidden(batch.embeds, batch.mask, batch.positions)[batch.mask.bool()]
    for mask in (None, between(batch)):  # found by the positions, and stated pair by pair
        states = backbone.hidden(row.embeds, mask, row.positions)[0]
        torch.testing.assert_close(states, padded, rtol=0, atol=1e-5)
        logits = backbone.logits(states)
        torch.testing.assert_close(logits, backbone.logits(padded), rtol=0, atol=1e-5)
    crossed = backbone.hidden(row.embeds, torch.ones_like(row.positions), row.positions)[0]
    assert float((crossed - padded).abs().max()) > 1e-2  # one item would have seen another
    attend_by(backbone, "sdpa")


def test_a_step_in_rows_has_the_loss_and_the_gradients_of_a_padded_one(worker):
    found = {}
    for packs in (False, True):
        worker.model.packs = packs
        worker.model.zero_grad(set_to_none=True)
        sums = backward(worker, "lora", worker.items(0, PART), 0, PART)
        trained = [p.grad.reshape(-1) for p in worker.model.parameters() if p.requires_grad]
        found[packs] = sums, torch.cat(trained)
    worker.model.packs = False
    (padded, gradients), (packed, same) = found[False], found[True]
    assert packed["loss"] == pytest.approx(padded["loss"], abs=1e-6)
    assert packed["tokens"] == padded["tokens"] > 0
    torch.testing.assert_close(same, gradients, rtol=1e-4, atol=1e-6)
    assert packed["padded"] == packed["positions"] == padded["positions"] < padded["padded"]


def test_here_nothing_is_packed_and_torchs_own_attention_is_used(worker):
    settings = {"stage": Stage.ALIGNMENT, "parts": PARTS[Stage.ALIGNMENT], "method": METHOD}
    config = TrainConfig(**settings, precision="bf16")
    assert not {"attention", "packing"} & config.model_dump().keys()
    assert best_attention(config, worker.model.backbone, CPU) == "sdpa"
    choose_kernel(worker.model, config, CPU)
    assert attention_of(worker.model.backbone) == "sdpa"
    assert not can_pack(worker.model.backbone) and not worker.model.packs
    assert worker.model.trains_with == {}


def test_where_the_kernel_takes_unequal_lengths_items_are_packed_and_the_card_says_so(worker):
    language = worker.model.backbone.vlm.model.language_model
    language.config._attn_implementation_internal = FLASH
    try:
        assert can_pack(worker.model.backbone)
        worker.model.packs = True
        assert worker.model.trains_with == {"attention": FLASH, "packing": "on"}
    finally:
        language.config._attn_implementation_internal = "sdpa"
        worker.model.packs = False
