"""What tests/test_presets.py counts for a 7B is what its layers and its head really take.

Measured with fake tensors on the CPU. A GPU's attention kernel keeps the same: its output, and a
number for each head and position.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaConfig, LlamaModel

from model.lora import add_lora
from model.precision import recompute
from model.safety import SafetyModules
from schemas.config import TrainConfig
from tests.live_bytes import Live, counted, faked
from tests.test_presets import (
    AT_HAND,
    HEADS,
    JUDGED,
    LEARNT,
    PATCHES,
    SAFETY,
    WIDE,
    WIDTH,
    kept,
    made,
    positions,
)

torch.set_num_threads(1)
QUESTION = 128  # tokens


@pytest.mark.parametrize(
    ("card", "stage"),
    [("80gb", "stage1"), ("80gb", "stage2"), ("48gb", "stage2"), ("8x80gb", "stage2")],
)
def test_a_layer_keeps_the_bytes_that_are_counted_and_needs_no_more_at_hand(card, stage):
    config = getattr(made(preset=f"llava-1.5-7b-{card}"), stage)
    count = positions(config)
    one, two = (through_layers(config, layers) for layers in (1, 2))
    assert two.kept - one.kept == count * kept(config)
    gradients = two.left - one.left  # of a layer's own weights
    assert two.peak < count * (2 * kept(config) + AT_HAND) + 2 * gradients


def through_layers(config: TrainConfig, layers: int) -> Live:
    """What one item takes on its way through so many of a 7B's layers and back."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDE, "num_attention_heads": HEADS}
    full, vlm = "full" in config.parts, nn.Module()
    backbone = SimpleNamespace(vlm=vlm, dtype=torch.bfloat16)
    with torch.device("meta"):
        language = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=layers)).to(torch.bfloat16)
        vlm.model = nn.Module()
        vlm.model.language_model = language.requires_grad_(False).train()
        language.layers.requires_grad_(full)
        if "lora" in config.parts:
            add_lora(backbone, config.method)
    recompute(backbone, config.recompute)
    count, kind = positions(config), torch.float32 if full else torch.bfloat16
    with FakeTensorMode():
        faked(language)
        embeds = torch.empty(1, count, WIDTH, dtype=kind, requires_grad="lora" not in config.parts)
        places = torch.arange(count)[None]
        return counted(
            language,
            [embeds, places],
            lambda: language(inputs_embeds=embeds, position_ids=places, use_cache=False)[0],
        )


def test_the_head_takes_no_more_of_an_image_than_is_counted():
    config = made(preset="llava-1.5-7b-80gb").stage1
    sizes = {"vision_dim": 1024, "llm_dim": WIDTH, "types": 7, "levels": 4}
    with torch.device("meta"):
        head = SafetyModules(config.method, **sizes)
    assert sum(p.numel() for p in head.parameters()) <= SAFETY
    four, eight = (through_head(head, images) for images in (4, 8))
    assert (eight.peak - four.peak) / 4 < LEARNT
    four, eight = (through_head(head.requires_grad_(False), images) for images in (4, 8))
    assert (eight.peak - four.peak) / 4 < JUDGED < LEARNT


def through_head(head: SafetyModules, images: int) -> Live:
    """What so many images take on their way to the head's judgement, and back where it learns."""
    learns = any(p.requires_grad for p in head.parameters())
    with FakeTensorMode():
        faked(head)
        given = torch.empty(images, PATCHES, 1024), torch.empty(images, QUESTION, WIDTH)
        mask = torch.ones(images, QUESTION, dtype=torch.bool)
        return counted(
            head,
            [*given, mask],
            lambda: torch.cat(head.concept_logits(*given, mask), dim=1),
            half=learns,
        )
