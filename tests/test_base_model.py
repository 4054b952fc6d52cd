"""The base model: it trains, reads back, repeats, and learns from the prompts that it will see."""

import hashlib
import json
import pickle
import re
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from infra.store import Store
from model.backbone import Backbone
from model.backbones.llava import Llava
from model.batches import compose
from model.losses import answer_loss
from model.pretrain import train_language
from model.prompts import teach
from model.tiny_llava import new_llava, new_processor, new_tokenizer
from schemas.config import BaseConfig
from schemas.errors import ConfigError
from tasks import base_model as step
from tasks.base_model import FOLDER, base_model
from tasks.tiny_world.language import Item
from tasks.tiny_world.lessons import album, lessons

torch.set_num_threads(1)
WIDTH = 32
SMALL = BaseConfig(
    width=WIDTH, layers=2, heads=4, vision_steps=3, vision_batch=4, language_steps=3, threads=1
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[Path]:
    """The same config in two roots, by a process of one thread and of two: the folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "ALBUM", 60)
        patch.setattr(step, "LESSON_IMAGES", 4)
        folders = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            store = Store(str(tmp_path_factory.mktemp("root")))
            artifact = base_model(SMALL, store=store)
            assert artifact.counts["parameters"] > 10_000
            folders.append(store.local(artifact))
            assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    return folders


@torch.no_grad()
def louder(llava: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """Fresh weights hardly look at their context; ten times as large, every token matters."""
    for name, parameter in llava.named_parameters():
        if parameter.ndim > 1 and "vision_tower" not in name:
            parameter.mul_(10)
    return llava


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- trained here ---


def test_the_same_config_gives_the_same_weights(trained):
    names = [sorted(p.name for p in folder.joinpath(FOLDER).iterdir()) for folder in trained]
    assert names[0] == names[1]
    hashes = [{n: sha256(folder / FOLDER / n) for n in names[0]} for folder in trained]
    assert hashes[0] == hashes[1]
    assert "model.safetensors" in hashes[0]


def test_transformers_own_classes_read_the_folder_and_agree_with_the_backbone(trained):
    folder = str(trained[0] / FOLDER)
    llava = LlavaForConditionalGeneration.from_pretrained(folder)
    processor = LlavaProcessor.from_pretrained(folder)
    backbone = Backbone.load(folder)
    for model in (llava, backbone.vlm):
        louder(model)
    pictures = album(2, seed=3).pixels
    question = "how many shapes are there ?"
    text = f"USER: <image>\n{question} ASSISTANT: two .</s>"
    inputs = processor(text=[text] * 2, images=list(pictures), return_tensors="pt")
    with torch.no_grad():
        expected = llava(**inputs).logits
        batch = compose(
            backbone,
            [teach(question, "two .")] * 2,
            images=list(backbone.project(backbone.encode_images(list(pictures)))),
            training=True,
        )
        found = backbone.logits(backbone.hidden(batch.embeds, batch.mask, batch.positions))
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4)
    assert (expected[0, -1] - expected[1, -1]).abs().max() > 1e-2


# --- what it is taught is what it will be asked ---


@pytest.fixture(scope="module")
def school():
    """An untrained model, features of some pictures, and lessons as `base_model` gives them."""
    scenes = album(24, seed=5).scenes
    tokenizer = new_tokenizer(step._corpus(scenes, seed=5))
    llava = louder(new_llava(SMALL, tokenizer))
    backbone = Llava(llava, tokenizer, new_processor(tokenizer).image_processor)
    features = torch.randn(24, 64, WIDTH, generator=torch.Generator().manual_seed(0))
    return backbone, features, list(islice(lessons(scenes, images=4, seed=5), 8))


def packed_loss(backbone: Backbone, features: torch.Tensor, batch: list) -> float:
    """The loss that training sees before its first step, three items to a picture."""
    before = {k: v.clone() for k, v in backbone.vlm.state_dict().items()}
    turns = [(i, step._turns(items, image=i >= 0)) for i, items in batch]
    told: list[float] = []
    train_language(
        backbone.vlm,
        backbone.tokenizer,
        features,
        [turns],
        steps=1,
        report=lambda _, loss: told.append(loss),
    )
    backbone.vlm.load_state_dict(before)
    (loss,) = told
    return loss


@torch.no_grad()
def single_loss(backbone: Backbone, features: torch.Tensor, pairs: list) -> float:
    """Mean over the answer tokens of single prompts, composed as for the stages."""
    prompts = [teach(item.question, item.comply or item.answer) for _, item in pairs]
    images = [None if i < 0 else backbone.project(features[[i]])[0] for i, _ in pairs]
    batch = compose(backbone, prompts, images=images, training=True)
    hidden = backbone.hidden(batch.embeds, batch.mask, batch.positions)
    total, count = answer_loss(hidden, batch.labels, backbone.logits)
    return float(total / count)


@pytest.mark.parametrize("number", [0, 3, 7])
def test_items_that_share_a_picture_are_taught_like_prompts_of_their_own(school, number):
    """Proves the segment mask, the positions, and that lessons and inference share one template."""
    backbone, features, batches = school
    batch = batches[number]
    assert (batch[0][0] < 0) == (number == 7)  # every eighth is text alone
    pairs = [(index, item) for index, items in batch for item in items]
    assert len(pairs) == (4 if number == 7 else 12)
    packed = packed_loss(backbone, features, batch)
    assert packed == pytest.approx(single_loss(backbone, features, pairs), abs=1e-5)
    # The measure is fine enough: one word of one question shows, and so does another picture.
    index, item = pairs[0]
    other = Item(item.kind, "now " + item.question, item.answer, item.comply)
    for changed in ([(index, other), *pairs[1:]], [((index + 1) % 24, item), *pairs[1:]]):
        assert packed != pytest.approx(single_loss(backbone, features, changed), abs=1e-3)


# --- taken by name ---


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A model folder with things in it that must not be taken along."""
    copy = tmp_path / "theirs"
    shutil.copytree(trained[0] / FOLDER, copy)
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": [1.0]}))
    (copy / "modeling_own.py").write_text("raise SystemExit\n")
    return copy


def taken(folder: Path, **changes) -> BaseConfig:
    return BaseConfig(kind="pretrained", **{"name": str(folder), **changes})


def test_only_safe_files_of_a_pretrained_model_are_copied(folder, tmp_path, trained):
    store = Store(str(tmp_path / "store"))
    artifact = base_model(taken(folder), store=store)
    copied = store.local(artifact) / FOLDER
    names = {p.name for p in trained[0].joinpath(FOLDER).iterdir()}
    assert {p.name for p in copied.rglob("*")} == names
    assert artifact.counts == {"files": len(names)}
    assert sha256(copied / "model.safetensors") == sha256(folder / "model.safetensors")
    assert Backbone.load(str(copied)).llm_dim == WIDTH


def test_a_pretrained_model_is_known_by_the_content_of_its_safe_files(folder, tmp_path):
    store = Store(str(tmp_path / "store"))
    first = base_model(taken(folder), store=store)
    (folder / "pytorch_model.bin").write_bytes(b"other")
    assert base_model(taken(folder), store=store).reused
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "note": 1}))
    changed = base_model(taken(folder), store=store)
    assert not changed.reused and changed.fingerprint != first.fingerprint


def test_a_pretrained_base_without_a_name_or_without_safetensors_is_refused(folder, tmp_path):
    store = Store(str(tmp_path / "store"))
    with pytest.raises(ConfigError, match="needs `name`"):
        base_model(taken(folder, name=""), store=store)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=re.escape("holds no .safetensors")):
        base_model(taken(folder), store=store)
    assert not (tmp_path / "store" / "base_model").exists()


@pytest.mark.parametrize("name", ["no-such/model", "not a name !"])
def test_a_name_that_is_nowhere_is_one_message_and_no_download(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="neither a folder nor a hub model"):
        base_model(taken(tmp_path, name=name), store=Store(str(tmp_path / "store")))
