"""The families of base models: without our modules each is transformers' own, to the last bit."""

import copy
from math import isqrt

import pytest
import torch
from PIL import Image
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from model.backbone import Backbone
from model.backbones.llava import Llava
from model.backbones.llava_next import LlavaNext, covered
from model.backbones.qwen2_5_vl import Qwen25Vl
from model.batches import compose
from model.features import ImagePatches, rows_of, size_of, stacked
from model.guard import GuardedVlm, GuardPolicy, load_hints
from model.lora import add_lora, lora_parameters
from model.prompts import ask, teach, tokenize
from model.psavlm import PsaVlm
from schemas.config import MethodConfig
from schemas.errors import ConfigError, DataError
from schemas.taxonomy import load_taxonomy
from tests.small_vlms import FAMILIES, SHAPES, image_of, plain_inputs, save

torch.set_num_threads(1)
QUESTION = "how many red shapes ?"
METHOD = MethodConfig(tokens=3, attention_heads=4, lora_rank=2)
RAGGED = FAMILIES[1:]
CLASSES = {"llava": Llava, "llava_next": LlavaNext, "qwen2_5_vl": Qwen25Vl}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, Backbone]:
    """Every family, written by save_pretrained and read back by the one door."""
    folder = tmp_path_factory.mktemp("vlms")
    return {name: Backbone.load(str(save(name, folder / name))) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def backbone(request, loaded) -> Backbone:
    return loaded[request.param]


@pytest.fixture(params=RAGGED)
def ragged(request, loaded) -> Backbone:
    return loaded[request.param]


def text_of(backbone: Backbone, *, image: bool, question: str = QUESTION) -> str:
    """The prompt's text, one placeholder in it."""
    (tokens,) = tokenize(backbone, [ask(question)], with_image=[image], training=False)
    return backbone.tokenizer.decode(tokens.ids)


def images_of(count: int) -> list[Image.Image]:
    return [image_of(*SHAPES[i % len(SHAPES)], seed=i) for i in range(count)]


def composed(backbone: Backbone, images: list, questions: list[str], **options):
    given = [image for image in images if image is not None]
    with torch.no_grad():
        projected = iter(backbone.project(backbone.encode_images(given))) if given else iter(())
    rows = [None if image is None else next(projected) for image in images]
    return compose(backbone, [ask(q) for q in questions], images=rows, **options)


@torch.no_grad()
def logits_of(backbone: Backbone, batch) -> torch.Tensor:
    return backbone.logits(backbone.hidden(batch.embeds, batch.mask, batch.positions))


# --- as the plain model ---


def test_the_registry_gives_each_family_its_class(loaded):
    assert {name: type(found) for name, found in loaded.items()} == CLASSES


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_with_an_image_are_the_plain_models_to_the_last_bit(backbone, shape):
    image = image_of(*shape)
    with torch.no_grad():
        own = backbone.vlm(**plain_inputs(backbone, image, text_of(backbone, image=True))).logits
    found = logits_of(backbone, composed(backbone, [image], [QUESTION]))
    assert found.shape == own.shape and torch.equal(found, own)


def test_logits_of_text_alone_are_the_plain_models_to_the_last_bit(backbone):
    with torch.no_grad():
        own = backbone.vlm(**plain_inputs(backbone, None, text_of(backbone, image=False))).logits
    found = logits_of(backbone, composed(backbone, [None], [QUESTION]))
    assert torch.equal(found, own)


def test_answers_are_the_plain_models(backbone):
    answers = set()
    for image in images_of(4):
        inputs = plain_inputs(backbone, image, text_of(backbone, image=True))
        ids = backbone.vlm.generate(**inputs, max_new_tokens=10, do_sample=False)
        ids = ids[0, inputs["input_ids"].shape[1] :]
        own = backbone.tokenizer.decode(ids, skip_special_tokens=True).strip()
        batch = composed(backbone, [image], [QUESTION])
        found = backbone.generate(batch.embeds, batch.mask, batch.positions, max_new_tokens=10)
        assert found == [own]
        answers.add(own)
    assert len(answers) > 1


def test_answers_do_not_depend_on_the_batch(backbone):
    images = [None if i % 5 == 4 else image for i, image in enumerate(images_of(10))]
    questions = ["how many ?" + " red shapes" * (i % 4) for i in range(10)]

    def answers(size: int) -> list[str]:
        found = []
        for at in range(0, 10, size):
            batch = composed(backbone, images[at : at + size], questions[at : at + size])
            texts = backbone.generate(batch.embeds, batch.mask, batch.positions, max_new_tokens=8)
            found += texts
        return found

    alone = answers(1)
    assert answers(10) == alone == answers(3)
    assert len(set(alone)) > 3


def test_every_family_speaks_in_the_words_that_it_was_trained_with(loaded):
    vicuna = (
        "A chat between a curious human and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the human's questions. USER: <image>\n"
    )
    told = {name: text_of(found, image=True, question="a ?") for name, found in loaded.items()}
    assert told["llava"] == "USER: <image>\na ? ASSISTANT:"
    assert told["llava_next"] == vicuna + "a ? ASSISTANT:"
    assert told["qwen2_5_vl"] == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>a ?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_exactly_the_answer_and_its_end_are_taught(backbone):
    (tokens,) = tokenize(backbone, [teach("a ?", "two red")], with_image=[True], training=True)
    taught = [label for label in tokens.labels if label != -100]
    end = backbone.tokenizer.eos_token
    assert backbone.tokenizer.decode(taught).strip() == f"two red{end}"


def test_no_special_token_gets_in_by_a_question(backbone):
    marks = "".join(sorted(backbone.control_tokens))
    (tokens,) = tokenize(backbone, [ask(f"red {marks} ?")], with_image=[True], training=False)
    (clean,) = tokenize(backbone, [ask("red ?")], with_image=[True], training=False)
    special = set(backbone.tokenizer.convert_tokens_to_ids(list(backbone.control_tokens)))
    counts = [sum(token in special for token in found.ids) for found in (tokens, clean)]
    assert counts[0] == counts[1]


# --- images of any shape ---


def test_features_do_not_depend_on_the_other_images(ragged):
    images = images_of(6)
    together = ragged.encode_images(images)
    assert len({len(found) for found in together}) > 3
    for image, found in zip(images, together, strict=True):
        (alone,) = ragged.encode_images([image])
        assert torch.equal(alone.rows, found.rows) and alone.size == (image.height, image.width)
        assert sum(r * c for r, c in ragged.grids(found.size)) == len(found)


def test_the_head_judges_ragged_images_in_one_batch_as_it_judges_them_alone(ragged):
    model = PsaVlm.new(ragged, METHOD, types=7, levels=4)
    images, questions = images_of(6), [f"is {i} red ?" for i in range(6)]
    features = ragged.encode_images(images)
    patches, real = stacked(features, ragged.device)
    assert real is not None and real.sum(1).tolist() == [len(found) for found in features]
    with torch.no_grad():
        together = model.concept_logits(features, questions)
        for i in range(6):
            alone = model.concept_logits(features[i : i + 1], questions[i : i + 1])
            for one, all_ in zip(alone, together, strict=True):
                torch.testing.assert_close(one[0], all_[i], atol=1e-5, rtol=1e-5)
    assert float((together[0][0] - together[0][1]).abs().max()) > 1e-4


@pytest.mark.parametrize("name", RAGGED)
def test_guarded_answers_to_ragged_images_encode_each_once(loaded, name):
    backbone = loaded[name]
    taxonomy = load_taxonomy()
    model = PsaVlm.new(backbone, METHOD, types=len(taxonomy.types), levels=len(taxonomy.levels))
    guarded = GuardedVlm(
        model,
        taxonomy=taxonomy,
        hints=load_hints("default", taxonomy=taxonomy),
        policy=GuardPolicy(threshold=0.0),
    )
    vlm = backbone.vlm.model
    tower = vlm.visual.patch_embed if name == "qwen2_5_vl" else vlm.vision_tower.embeddings
    calls = []
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    images = [*images_of(4), None]
    together = guarded.answer(images, [QUESTION] * 5, max_new_tokens=6)
    handle.remove()
    assert len(calls) == 4
    assert [found.verdict is None for found in together] == [False] * 4 + [True]
    alone = [guarded.answer([im], [QUESTION], max_new_tokens=6)[0] for im in images]
    assert [found.text for found in alone] == [found.text for found in together]


def test_both_stages_have_something_to_learn_from_ragged_images(ragged):
    model = PsaVlm.new(ragged, METHOD, types=7, levels=4)
    features = ragged.encode_images(images_of(3))
    targets = torch.tensor([0, 1, 2])
    model.safety.requires_grad_(True)
    model.concept_batch_loss(features, [QUESTION] * 3, targets, targets).backward()
    model.language_batch_loss([*features, None], [QUESTION] * 4, ["two red"] * 4).backward()
    silent = [n for n, p in model.safety.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_an_adapter_goes_into_the_language_model_alone(backbone, tmp_path):
    fresh = Backbone.load(str(save(backbone.config.model_type, tmp_path / "vlm")))
    before = logits_of(fresh, composed(fresh, images_of(1), [QUESTION]))
    add_lora(fresh, METHOD)
    assert torch.equal(logits_of(fresh, composed(fresh, images_of(1), [QUESTION])), before)
    names = list(lora_parameters(fresh))
    assert names and all("language_model.layers" in name for name in names)
    kinds = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in names}
    assert kinds == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


# --- Qwen's positions ---


def test_qwens_positions_run_over_the_grid_also_behind_safety_tokens(loaded):
    backbone = loaded["qwen2_5_vl"]
    image = image_of(50, 100)
    ((rows, columns),) = backbone.grids((50, 100))
    tokens = torch.randn(3, backbone.llm_dim)
    batch = composed(backbone, [image], [QUESTION], tokens=tokens)
    (text,) = tokenize(backbone, [ask(QUESTION)], with_image=[True], training=False)
    at = text.ids.index(backbone.config.image_token_id) + 3
    places = batch.positions[:, 0, at : at + rows * columns]
    down = torch.arange(rows).repeat_interleave(columns)
    assert places.tolist() == [
        [at] * rows * columns,
        (at + down).tolist(),
        (at + torch.arange(columns).repeat(rows)).tolist(),
    ]
    before, after = batch.positions[:, 0, :at], batch.positions[:, 0, at + rows * columns :]
    assert (before == torch.arange(at)).all()
    assert (after == at + max(rows, columns) + torch.arange(after.shape[1])).all()


def test_padding_moves_no_position(ragged):
    """Left or right: real places have the positions that they have alone."""
    images, questions = [*images_of(3), None], ["a ?", QUESTION, "red ?", "two red shapes ?"]
    for side in (False, True):
        prompts = [teach(q, "two") if side else ask(q) for q in questions]
        projected = [*ragged.project(ragged.encode_images(images[:3])), None]
        batch = compose(ragged, prompts, images=projected, training=side)
        for i, prompt in enumerate(prompts):
            alone = compose(ragged, [prompt], images=projected[i : i + 1], training=side)
            real = batch.mask[i].bool()
            assert torch.equal(batch.positions[..., i, real], alone.positions[..., 0, :])


def test_an_image_too_oblong_for_qwen_is_a_data_error(loaded):
    with pytest.raises(DataError, match="2 x 500 pixels.*200 times"):
        loaded["qwen2_5_vl"].encode_images([image_of(500, 2)])


# --- where an image's patches lie ---


@pytest.mark.parametrize("shape", [(64, 64), (50, 100), (100, 33), (64, 40)])
def test_a_patchs_share_is_laid_over_the_pixels_that_it_sees(backbone, shape):
    """Where a spot appears in the picture shown is the patch whose features it changes most."""
    backbone = without_mixing(backbone)
    image = image_of(*shape)
    (found,) = backbone.encode_images([image])
    rows, columns = backbone.grids(size_of(found))[-1]
    first = len(found) - rows * columns  # the fine view comes last, where there are two
    told = []
    for spot in range(49):
        y, x = (
            int((part + 0.5) * edge / 7) for part, edge in zip(divmod(spot, 7), shape, strict=True)
        )
        changed = image.copy()
        changed.paste((255, 0, 255), (x - 1, y - 1, x + 2, y + 2))
        seen = (backbone.as_seen(changed) - backbone.as_seen(image)).abs().sum(0)
        energy = seen.unflatten(1, (columns, -1)).unflatten(0, (rows, -1)).sum((1, 3)).flatten()
        if energy.max() < 0.9 * energy.sum() or not energy.any():
            continue  # cropped away, or over several patches
        after = rows_of(backbone.encode_images([changed])[0])
        share = torch.zeros(len(found))
        share[first + int((after - rows_of(found))[first:].norm(dim=1).argmax())] = 1.0
        heat = backbone.heat(share, size_of(found))
        assert heat.shape == (rows, columns) and float(heat.sum()) == 1.0
        told.append(int(heat.argmax()) == int(energy.argmax()))
    assert len(told) >= 4 and all(told)


@torch.no_grad()
def without_mixing(backbone: Backbone) -> Backbone:
    """A copy whose encoder passes nothing from patch to patch."""
    alone = copy.deepcopy(backbone)
    for name, parameter in alone.vlm.named_parameters():
        if name.endswith(("self_attn.out_proj.weight", "attn.proj.weight")):
            parameter.zero_()
    return alone


def test_a_coarse_views_shares_are_spread_over_the_fine_one(loaded):
    backbone = loaded["llava_next"]
    size = (50, 100)  # 4 x 4 coarse, 4 x 8 fine
    share = torch.zeros(16 + 32)
    share[5] = 1.0  # second row, second column of the coarse view
    heat = backbone.heat(share, size)
    assert heat[1, 2:4].tolist() == [0.5, 0.5] and float(heat.sum()) == 1.0
    of_projector = torch.full((2 * 9,), 1 / 18)  # its 3 x 3 per view
    pooled = backbone.heat(of_projector, size, pooled=True)
    assert pooled.shape == (3, 3) and torch.allclose(pooled, torch.full((3, 3), 1 / 9))
    assert torch.allclose(covered(4, 6).sum(0), torch.ones(4))


def test_a_pooled_square_is_no_oblong_of_as_many_patches(ragged):
    """2 x 8 patches of a wide picture, and 4 x 4 of a projector, are sixteen each."""
    sizes = [(high, wide) for high in range(8, 200, 4) for wide in range(8, 600, 8)]
    size, grid = next(
        (size, grid) for size in sizes for grid in [ragged.grids(size)[-1]]
        if grid[0] != grid[1] and isqrt(grid[0] * grid[1]) ** 2 == grid[0] * grid[1] > 0
    )  # fmt: skip
    side, views = isqrt(grid[0] * grid[1]), len(ragged.grids(size))
    share = torch.zeros(views * side * side)
    share[-side * side + side - 1] = 1.0  # the top right corner
    heat = ragged.heat(share, size, pooled=True)
    assert heat.shape == (side, side) and heat[0, -1] == 1.0


def test_a_picture_without_a_fine_view_is_shown_whole(loaded):
    backbone = loaded["llava_next"]
    image = image_of(2, 200)
    (found,) = backbone.encode_images([image])
    assert backbone.grids(found.size)[1][0] == 0 and len(found) == 16
    assert backbone.as_seen(image).shape == (3, 32, 32)
    assert backbone.heat(torch.arange(16.0), found.size).shape == (4, 4)


@pytest.mark.parametrize("shape", [(50, 100), (100, 33)])
def test_what_is_seen_is_the_picture_itself(ragged, shape):
    image = Image.new("RGB", (shape[1], shape[0]), (200, 30, 60))
    seen = ragged.as_seen(image)
    colour = torch.tensor([200, 30, 60]) / 255
    inner = seen[:, 8:-8, 8:-8].flatten(1)
    assert torch.allclose(inner, colour[:, None].expand_as(inner), atol=0.02)


# --- variants that are refused ---


def changed(backbone: Backbone, part: str, **values):
    """The backbone built again over another configuration."""
    config = backbone.vlm.config
    target = getattr(config, part) if part else config
    before = {name: getattr(target, name) for name in values}
    for name, value in values.items():
        setattr(target, name, value)
    try:
        return type(backbone)(backbone.vlm, backbone.tokenizer, backbone.image_processor)
    finally:
        for name, value in before.items():
            setattr(target, name, value)


@pytest.mark.parametrize(
    ("name", "part", "values", "says"),
    [
        ("llava", "vision_config", {"model_type": "siglip"}, "vision tower 'siglip'"),
        ("llava_next", "", {"vision_feature_layer": [-2, -1]}, "several layers"),
        ("llava_next", "", {"vision_feature_select_strategy": "full"}, "keeps no CLS"),
        ("llava_next", "text_config", {"model_type": "gemma"}, "no prompt template.*'gemma'"),
    ],
)
def test_a_variant_that_is_not_supported_is_refused(loaded, name, part, values, says):
    with pytest.raises(ConfigError, match=says):
        changed(loaded[name], part, **values)


def test_a_mistral_is_asked_in_mistrals_words(loaded):
    backbone = changed(loaded["llava_next"], "text_config", model_type="mistral")
    assert text_of(backbone, image=True, question="a ?") == "[INST] <image>\na ? [/INST]"


def test_a_llama_3_is_told_from_vicuna_by_its_tokenizer(loaded):
    """Both are of model_type `llama`."""
    vicuna = loaded["llava_next"]
    words = copy.deepcopy(vicuna.tokenizer)
    signs = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    words.add_special_tokens({"additional_special_tokens": signs})
    words.eos_token = "<|eot_id|>"
    llama = type(vicuna)(vicuna.vlm, words, vicuna.image_processor)
    text = text_of(llama, image=True, question="a ?")
    assert text.endswith(
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n<image>\na ?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    (tokens,) = tokenize(llama, [teach("a ?", "two red")], with_image=[True], training=True)
    taught = [label for label in tokens.labels if label != -100]
    assert words.decode(taught) == "two red<|eot_id|>"
    assert "USER:" in text_of(vicuna, image=True, question="a ?")


# --- published sizes, from their configurations alone ---

CLIP_L = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    "projection_dim": 768,
}  # fmt: skip
VICUNA_7B = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008}
VICUNA_13B = {
    "model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824,
    "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40,
}  # fmt: skip
MISTRAL_7B = {
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
    "num_key_value_heads": 8,
}  # fmt: skip
QWEN_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}  # fmt: skip
QWEN_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
PUBLISHED = {
    "llava-1.5-7b": ("llava", CLIP_L, VICUNA_7B, (1024, 4096), 7.06e9),
    "llava-1.5-13b": ("llava", CLIP_L, VICUNA_13B, (1024, 5120), 13.35e9),
    "llava-v1.6-mistral-7b": ("llava_next", CLIP_L, MISTRAL_7B, (1024, 4096), 7.57e9),
    "qwen2.5-vl-7b": ("qwen2_5_vl", QWEN_VISION, QWEN_7B, (5120, 3584), 8.29e9),
}
KINDS = {
    "llava": (LlavaConfig, LlavaForConditionalGeneration),
    "llava_next": (LlavaNextConfig, LlavaNextForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes_have_their_published_shapes(loaded, name):
    family, vision, text, widths, size = PUBLISHED[name]
    config, kind = KINDS[family]
    placeholder = {"vocab_size": 32064} if family != "qwen2_5_vl" else {}
    made = config(vision_config=vision, text_config={**placeholder, **text})
    made.image_token_id = loaded[family].config.image_token_id
    with torch.device("meta"):
        vlm = kind(made)
    backbone = CLASSES[family](vlm, loaded[family].tokenizer, loaded[family].image_processor)
    assert (backbone.vision_dim, backbone.llm_dim) == widths
    count = sum(p.numel() for p in vlm.parameters())
    assert count == pytest.approx(size, rel=0.005)
    if family == "llava":
        assert backbone.patches == 576 and backbone.grids(None) == ((24, 24),)
        pixels = torch.zeros(2, 3, 336, 336, device="meta")
        h_o = backbone.encode_pixels(pixels)
        assert h_o.shape == (2, 576, 1024)
        assert backbone.project(h_o).shape == (2, 576, widths[1])
    if family == "llava_next":
        assert backbone.grids((480, 640)) == ((24, 24), (36, 48))
        image = ImagePatches(torch.zeros(576 + 36 * 48, 1024, device="meta"), (480, 640))
        (h_i,) = backbone.project([image])
        assert h_i.rows.shape == (576 + 36 * (48 + 1), 4096)


@pytest.mark.parametrize("name", [name for name in sorted(PUBLISHED) if "1.5" in name])
def test_lora_of_the_papers_rank_has_the_size_that_its_layers_give(loaded, name):
    """METHOD.md section 3: rank 256 on every linear layer of the language model but lm_head."""
    family, vision, text, _, _ = PUBLISHED[name]
    config, kind = KINDS[family]
    made = config(vision_config=vision, text_config={"vocab_size": 32064, **text})
    made.image_token_id = loaded[family].config.image_token_id
    with torch.device("meta"):
        vlm = kind(made)
        backbone = CLASSES[family](vlm, loaded[family].tokenizer, loaded[family].image_processor)
        add_lora(backbone, MethodConfig(lora_rank=256))
    width, inner, layers = (
        made.text_config.hidden_size, made.text_config.intermediate_size,
        made.text_config.num_hidden_layers,
    )  # fmt: skip
    expected = layers * 256 * (4 * 2 * width + 3 * (width + inner))
    count = sum(p.numel() for p in lora_parameters(backbone).values())
    assert count == expected
    assert count == {4096: 639_631_360, 5120: 1_001_390_080}[width]
