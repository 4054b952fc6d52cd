"""Small random models of transformers' real classes, one per family, and what transformers makes of
a question about an image without any of our code.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from model.backbone import Backbone
from model.tiny_llava import IMAGE, new_llava, new_processor, new_tokenizer
from schemas.config import BaseConfig

FAMILIES = ("llava", "llava_next", "qwen2_5_vl")
WORDS = ["USER: how many red shapes are there ? ASSISTANT: two red circles and a square"] * 4
PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
# Height and width: square, oblong both ways, very oblong, tiny, odd.
SHAPES = ((64, 64), (50, 100), (100, 33), (2, 200), (17, 17), (30, 71))
CHATML = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")


def save(family: str, folder: Path) -> Path:
    """Writes a model of a family as save_pretrained does."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer(WORDS)
    vlm, *others = {"llava": _llava, "llava_next": _next, "qwen2_5_vl": _qwen}[family](tokenizer)
    # Untrained weights of std 0.02 repeat one token; larger ones make answers differ.
    with torch.no_grad():
        for parameter in vlm.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    for part in (vlm, *others):
        part.save_pretrained(folder)
    return folder


def _llava(tokenizer):
    llava = new_llava(BaseConfig(width=32, layers=3, heads=4), tokenizer)
    return llava, new_processor(tokenizer)


def _next(tokenizer):
    clip = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    vision = CLIPVisionConfig(**clip, num_hidden_layers=3, image_size=32, patch_size=8)
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, vision_feature_layer=-2,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE), image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip
    look = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=PINPOINTS,
    )
    processor = LlavaNextProcessor(
        look, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return LlavaNextForConditionalGeneration(config), processor


def _qwen(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": [*CHATML, "<|image_pad|>"]})
    tokenizer.eos_token = "<|im_end|>"
    ids = tokenizer.convert_tokens_to_ids
    vision = {
        "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 8,
        "spatial_merge_size": 2, "window_size": 32, "out_hidden_size": 48,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "bos_token_id": None, "pad_token_id": None,
        "eos_token_id": ids("<|im_end|>"),
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]},
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config=text, image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"), vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    look = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    )
    return Qwen2_5_VLForConditionalGeneration(config), look, tokenizer


def image_of(height: int, width: int, seed: int = 0) -> Image.Image:
    """Random hard-edged pixels."""
    drawn = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


def plain_inputs(backbone: Backbone, image: Image.Image | None, text: str) -> dict:
    """A prompt with one placeholder as transformers' own processors give it to the model."""
    look, tokens = backbone.image_processor, backbone.tokenizer
    kind = backbone.config.model_type
    if image is None:
        return dict(tokens(text, return_tensors="pt"))
    if kind == "llava":
        return dict(new_processor(tokens)(text=text, images=image, return_tensors="pt"))
    if kind == "llava_next":
        own = LlavaNextProcessor(
            look, tokens, patch_size=8, vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )  # fmt: skip
        return dict(own(text=text, images=image, return_tensors="pt"))
    pixels = look(images=[image], return_tensors="pt")
    count = int(pixels["image_grid_thw"].prod()) // 4
    found = tokens(text.replace("<|image_pad|>", "<|image_pad|>" * count), return_tensors="pt")
    kinds = (found["input_ids"] == backbone.config.image_token_id).int()
    return {**found, **pixels, "mm_token_type_ids": kinds}
