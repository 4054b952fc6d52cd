"""A base in four bits under LoRA: what is quantised, what is learnt, what is told of it.

What computes needs the extra psavlm[4bit], which has kernels for the CPU too; without it the tests
are left out, and the refusal is tested instead.
"""

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from infra.store import Store
from model.backbone import Backbone
from model.backbones.llava import Llava
from model.checkpoint import BaseReference, load_model, save_model
from model.lora import add_lora, lora_parameters
from model.precision import recompute
from model.psavlm import PsaVlm
from model.stages import freeze_for
from model.steps import apply_gradients, new_optimizer, seed_step
from model.tiny_llava import new_llava, new_processor, new_tokenizer
from schemas.config import BaseConfig, Stage, TrainConfig
from schemas.errors import ConfigError
from tasks.train import train
from tasks.train.data import TrainingData
from tasks.train.loop import backward
from tasks.train.worker import Worker
from tests.shelf import keep_features
from tests.test_train_parts import (
    HINTS,
    IMAGE_COUNT,
    METHOD,
    PART,
    PARTS,
    TAXONOMY,
    WORDS,
    image_name,
    new_job,
    write_set,
)
from tests.test_train_parts import new_worker as worker_in_full

torch.set_num_threads(1)
installed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs psavlm[4bit]")
absent = pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="psavlm[4bit] is here")
# bitsandbytes' blocks are of 64 weights; 0.50.2 reads rows that are shorter wrongly on the CPU.
WIDTH = 64
LORA = {"stage": Stage.ALIGNMENT, "parts": PARTS[Stage.ALIGNMENT], "method": METHOD}


@absent
def test_without_the_package_the_stage_is_refused_before_anything_starts(tmp_path):
    inputs = new_job(Stage.ALIGNMENT, tmp_path).inputs
    config = TrainConfig(**LORA, quantise="4bit")
    with pytest.raises(ConfigError, match=r"constraints.txt '\.\[4bit\]' in the checkout"):
        train(config, inputs, store=Store(str(tmp_path / "store")))
    assert not list(tmp_path.iterdir())


def test_a_stage_that_is_not_quantised_keeps_its_fingerprint():
    config = TrainConfig(**LORA)
    assert "quantise" not in config.model_dump()
    assert TrainConfig(**LORA, quantise="4bit").model_dump()["quantise"] == "4bit"


def test_a_base_that_trains_itself_is_never_quantised():
    method = METHOD.model_copy(update={"stage2": "full"})
    with pytest.raises(ValidationError, match="quantise '4bit' is for a frozen base"):
        TrainConfig(**{**LORA, "method": method, "parts": {"full": PART}}, quantise="4bit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A training set, and a base in its files."""
    folder = write_set(tmp_path_factory.mktemp("set"))
    backbone = wide_backbone()
    backbone.vlm.save_pretrained(folder / "base")
    new_processor(backbone.tokenizer).save_pretrained(folder / "base")
    return folder


def opened(folder: Path, *, four_bit: bool) -> Backbone:
    place = torch.device("cpu") if four_bit else None
    return Backbone.load(str(folder / "base"), dtype=torch.bfloat16, four_bit_on=place)


def new_worker(folder: Path, *, four_bit: bool, what: str = "none") -> Worker:
    """A worker of stage 2 as `open_worker` makes it."""
    worker = worker_in_full(folder, Stage.ALIGNMENT)
    model = PsaVlm.new(opened(folder, four_bit=four_bit), METHOD, types=7, levels=4)
    add_lora(model.backbone, METHOD)
    with torch.no_grad():  # B starts at 0, and then A learns nothing at first
        for name, parameter in lora_parameters(model.backbone).items():
            if ".lora_B." in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    recompute(model.backbone, what)
    settings = {"precision": "bf16", "quantise": "4bit" if four_bit else "none"}
    job = worker.job.model_copy(update={"config": TrainConfig(**LORA, **settings)})
    return replace(worker, job=job, model=model.train(), data=wide_data(folder))


def learned(worker: Worker, steps: int = 1) -> tuple[list[float], torch.Tensor]:
    """Losses of some steps, and the last one's gradients."""
    names = freeze_for(worker.model, Stage.ALIGNMENT, "lora")
    trained = [worker.model.get_parameter(name) for name in names]
    optimizer = new_optimizer(trained, PART)
    losses = []
    learn = partial(backward, worker, "lora")
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        seed_step(0, step, 0)
        losses.append(learn(worker.items(step, PART), step, PART)["loss"])
        gradients = torch.cat([p.grad.reshape(-1).clone() for p in trained])
        apply_gradients(losses[-1], optimizer, step=step, part=PART)
    return losses, gradients


def wide_backbone() -> Backbone:
    tokenizer = new_tokenizer(WORDS)
    llava = new_llava(BaseConfig(width=WIDTH, layers=3, heads=4), tokenizer)
    return Llava(llava, tokenizer, new_processor(tokenizer).image_processor)


def wide_data(folder: Path) -> TrainingData:
    shape = (IMAGE_COUNT, 64, WIDTH)
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ids = sorted(image_name(i) for i in range(IMAGE_COUNT))
    kept = keep_features(Store(str(folder / "wide")), ids, features)
    return TrainingData(folder / "balanced", kept, TAXONOMY)


@installed
def test_only_the_language_models_layers_are_in_four_bits(folder):
    backbone = opened(folder, four_bit=True)
    assert backbone.quantised and not opened(folder, four_bit=False).quantised
    small = [name for name, p in backbone.vlm.named_parameters() if p.dtype == torch.uint8]
    assert len(small) == 3 * 7
    assert all(name.startswith("model.language_model.layers.") for name in small)
    whole = sum(p.numel() for p in wide_backbone().vlm.model.language_model.layers.parameters())
    bits = sum(p.numel() for p in backbone.vlm.parameters() if p.dtype == torch.uint8)
    assert bits == pytest.approx(whole / 2, rel=0.02)


@installed
def test_what_is_learnt_through_four_bits_is_near_what_is_learnt_through_sixteen(folder):
    (loss,), gradients = learned(new_worker(folder, four_bit=False))
    (near,), rough = learned(new_worker(folder, four_bit=True))
    assert near != loss and near == pytest.approx(loss, rel=0.05)
    assert float(torch.cosine_similarity(rough, gradients, dim=0)) > 0.97


@installed
@pytest.mark.parametrize("what", ["cheap", "all"])
def test_steps_through_four_bits_repeat_to_the_bit_also_when_layers_are_recomputed(what, folder):
    losses, gradients = learned(new_worker(folder, four_bit=True), steps=3)
    again, same = learned(new_worker(folder, four_bit=True, what=what), steps=3)
    assert again == losses and torch.equal(same, gradients)
    assert len(set(losses)) == 3


@installed
def test_the_models_card_names_it_and_its_adapter_goes_onto_the_base_in_full(folder, tmp_path):
    worker = new_worker(folder, four_bit=True)
    learned(worker)
    card = {"stage": Stage.ALIGNMENT, "method": METHOD, "taxonomy": TAXONOMY, "hints": HINTS}
    save_model(tmp_path / "four", worker.model, base=BaseReference(name="b"), **card)
    assert '"base": "nf4"' in (tmp_path / "four" / "model.json").read_text()
    model, found = load_model(tmp_path / "four", opened(folder, four_bit=False))
    assert found.trained_with == {"base": "nf4"}
    for name, parameter in lora_parameters(worker.model.backbone).items():
        assert torch.equal(lora_parameters(model.backbone)[name], parameter)
    plain = new_worker(folder, four_bit=False)
    save_model(tmp_path / "plain", plain.model, base=BaseReference(name="b"), **card)
    assert "trained_with" not in (tmp_path / "plain" / "model.json").read_text()
