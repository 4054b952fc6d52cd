"""What the guard costs at inference: FLOPs counted for LLaVA-1.5-7B, and a share measured here.

Pass 1 reads the features that pass 2 needs anyway, so its cost is the safety modules' alone. FLOPs
are counted on the meta device by torch's own counter (matrix products, convolutions, attention;
no norms); the share is measured on the tiny model, whose language model is small beside its guard:
on 7B it is what the FLOPs say at equal utilisation.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from model.backbones.llava import Llava
from model.guard import GuardedVlm, GuardPolicy, load_hints
from model.prompts import ask
from model.psavlm import PsaVlm
from model.safety import SafetyModules
from model.tiny_llava import new_llava, new_processor, new_tokenizer
from schemas.config import BaseConfig, MethodConfig
from schemas.presets import Parameters, resolve
from schemas.taxonomy import load_taxonomy
from tests.benchmarks.record import record

QUESTION, TEXT, SAFETY, ANSWER = 32, 64, 64, 64  # tokens
ROUNDS = 15
# LLaVA-1.5-7B's sizes (CLIP ViT-L/14-336 and Vicuna-7B).
VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
LANGUAGE = {
    "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32,
}  # fmt: skip
GUARDS = {
    "psa-vlm": MethodConfig(projector="c_abstractor", tokens=SAFETY),
    "mlp projector": MethodConfig(projector="mlp", tokens=SAFETY),
    "guard-mlp": MethodConfig(
        projector="c_abstractor", head="pooled_mlp", llm_tokens="none", tokens=SAFETY
    ),
}


def flops(run: Callable[[], object]) -> float:
    """What a call multiplies and adds, in GFLOP (a product and its sum are two)."""
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return counter.get_total_flops() / 1e9


def generating(vlm: LlavaForConditionalGeneration, prompt: int) -> None:
    """Prefill of a prompt and ANSWER tokens, one by one with the cache, as generate does."""
    cache, width = DynamicCache(), vlm.config.text_config.hidden_size
    for length in (prompt, *[1] * (ANSWER - 1)):
        embeds = torch.empty(1, length, width, device="meta")
        seen = cache.get_seq_length()
        places = torch.arange(seen, seen + length, device="meta")
        output = vlm.model(
            inputs_embeds=embeds, past_key_values=cache, use_cache=True,
            position_ids=places[None],
        )  # fmt: skip
        vlm.lm_head(output.last_hidden_state[:, -1:])


def test_flops_of_the_guard_beside_those_of_an_answer_on_7b_and_its_share_on_the_tiny_model():
    numbers = {**counted(), **measured()}
    record("guard-cost", {name: float(f"{value:.4g}") for name, value in numbers.items()})


def counted() -> dict[str, float]:
    """GFLOP of one image with its question on LLaVA-1.5-7B; the guards' share of all in %."""
    tokenizer = new_tokenizer(["a"])
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**LANGUAGE),
        image_token_index=int(tokenizer.convert_tokens_to_ids("<image>")),
    )  # fmt: skip
    with torch.device("meta"):
        vlm = LlavaForConditionalGeneration(config)
    backbone = Llava(vlm, tokenizer, new_processor(tokenizer).image_processor)
    with torch.device("meta"):
        pixels, h_o = torch.empty(1, 3, 336, 336), torch.empty(1, 576, 1024)
        text, mask = torch.empty(1, QUESTION, 4096), torch.ones(1, QUESTION, dtype=torch.bool)
    encode = flops(lambda: backbone.encode_pixels(pixels))
    project = flops(lambda: backbone.project(h_o))
    answer = flops(lambda: generating(vlm, 576 + TEXT))
    tokens = flops(lambda: generating(vlm, 576 + TEXT + SAFETY)) - answer
    found = {"7b.encode_gflop": encode, "7b.project_gflop": project, "7b.answer_gflop": answer}
    found["7b.safety_tokens_gflop"] = tokens
    for name, method in GUARDS.items():
        with torch.device("meta"):
            safety = SafetyModules(method, vision_dim=1024, llm_dim=4096, types=7, levels=4)
        # With gradients on: without, torch takes a fused path that its counter does not see.
        own = flops(lambda safety=safety: safety.concept_logits(h_o, text, mask))
        whole = encode + project + answer
        found |= {f"7b.{name}.guard_gflop": own, f"7b.{name}.guard_percent": 100 * own / whole}
    return found


def measured() -> dict[str, float]:
    """Milliseconds of pass 1 and of 64 tokens on the tiny model, by batch size, and the share."""
    torch.set_num_threads(1)
    tokenizer, taxonomy = new_tokenizer(["how many red shapes are there ?"]), load_taxonomy()
    backbone = Llava(
        new_llava(BaseConfig(), tokenizer), tokenizer, new_processor(tokenizer).image_processor
    )
    method = resolve(Parameters(method="psa-vlm")).method
    guarded = GuardedVlm(
        PsaVlm.new(backbone, method, types=len(taxonomy.types), levels=len(taxonomy.levels)),
        taxonomy=taxonomy,
        hints=load_hints(method.hints, taxonomy=taxonomy),
        policy=GuardPolicy(),
    )
    found = {}
    for batch in (1, 16):
        features = torch.randn(batch, 64, backbone.vision_dim)
        questions = ["how many red shapes are there ?"] * batch
        times = [rounds(guarded, features, questions) for _ in range(ROUNDS)]
        guard, answer = (1000 * median(own) for own in zip(*times, strict=True))
        found |= {f"tiny.batch_{batch}.guard_ms": guard, f"tiny.batch_{batch}.answer_ms": answer}
        found[f"tiny.batch_{batch}.guard_percent"] = 100 * guard / (guard + answer)
    return found


@torch.no_grad()
def rounds(
    guarded: GuardedVlm, features: torch.Tensor, questions: list[str]
) -> tuple[float, float]:
    """Seconds of pass 1, and of generating exactly ANSWER tokens."""
    prompts = [ask(question) for question in questions]
    made = guarded.model.compose(features, prompts, use_tokens=True)
    start = time.perf_counter()
    guarded.judge(features, questions)
    judged = time.perf_counter()
    guarded.model.backbone.vlm.generate(
        inputs_embeds=made.embeds, attention_mask=made.mask, min_new_tokens=ANSWER,
        max_new_tokens=ANSWER, do_sample=False,
    )  # fmt: skip
    return judged - start, time.perf_counter() - judged
