"""Where the safety head looks: true shares of its own attention, and a picture of them."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from infra.store import Store
from model.attention import attention, of_modules
from model.backbone import as_square
from model.contributions import contributions
from model.guard import forced
from model.heads import QUERIES
from model.prompts import teach
from model.safety import SafetyModules
from schemas.config import MethodConfig
from schemas.errors import ConfigError, DataError
from tasks.answer import answer_one, load_guarded
from tasks.explain import explain_one
from tasks.overlay import overlay, top_of
from tests.small_run import METHOD, TAXONOMY, picture, small_base, small_stage

torch.set_num_threads(1)
PSAVLM = str(Path(sys.executable).parent / "psavlm")
B, P, V, D, T, S = 5, 16, 24, 32, 6, 4
ASKED = "how many red shapes are there ?"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("explain") / "store"))
    return small_stage(store, small_base(store), METHOD)


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "sign.png"
    path.write_bytes(picture(1))
    return path


def modules(query: str = "text") -> SafetyModules:
    torch.manual_seed(0)
    method = MethodConfig(query=query, tokens=S, attention_heads=4)
    safety = SafetyModules(method, vision_dim=V, llm_dim=D, types=7, levels=4)
    with torch.no_grad():  # far from even attention, or a mistake would not show
        safety.head.attention.in_proj_weight.mul_(4)
    return safety


def given(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[1, 3:] = False
    return (
        torch.randn(B, P, V, generator=generator),
        torch.randn(B, T, D, generator=generator),
        mask,
    )


# --- the shares ---


@pytest.mark.parametrize("query", sorted(QUERIES))
def test_shares_of_patches_and_tokens_sum_to_one(query):
    found = of_modules(modules(query), *given())
    assert found.patches.shape == (B, P) and found.tokens.shape == (B,)
    assert found.patches.min() >= 0 and found.tokens.min() > 0
    assert torch.allclose(found.patches.sum(1) + found.tokens, torch.ones(B), atol=1e-6)
    assert found.patches.max() > 2 / (P + S)  # and they are not just even


@pytest.mark.parametrize("query", sorted(QUERIES))
def test_shares_are_the_softmax_of_the_heads_own_projections(query):
    safety = modules(query)
    head, (features, text, mask) = safety.head, given()
    with torch.no_grad():
        asking, real = head.query(text, mask)
        tokens = safety.tokens.s_head.expand(B, -1, -1)
        keys = head.norm(torch.cat([tokens, safety.projector(features)], 1))
        weight, bias = head.attention.in_proj_weight, head.attention.in_proj_bias
        q = (asking @ weight[:D].T + bias[:D]).unflatten(-1, (4, D // 4))
        k = (keys @ weight[D : 2 * D].T + bias[D : 2 * D]).unflatten(-1, (4, D // 4))
        shares = torch.einsum("bqhd,bkhd->bhqk", q, k).div((D // 4) ** 0.5).softmax(-1).mean(1)
        expected = torch.stack([s[r].mean(0) for s, r in zip(shares, real, strict=True)])
    found = of_modules(safety, features, text, mask)
    assert torch.allclose(found.patches, expected[:, S:], atol=1e-6)
    assert torch.allclose(found.tokens, expected[:, :S].sum(1), atol=1e-6)


def test_another_question_moves_the_attention_of_a_text_query_and_not_of_an_image_only_one():
    features, text, mask = given()
    other = text.flip(0)
    mask = torch.ones_like(mask)
    asking = of_modules(modules("text"), features, text, mask).patches
    moved = of_modules(modules("text"), features, other, mask).patches
    assert (asking - moved).abs().max() > 1e-3
    alone = of_modules(modules("image_only"), features, text, mask).patches
    assert torch.equal(alone, of_modules(modules("image_only"), features, other, mask).patches)


def test_padding_gets_no_say():
    features, text, mask = given()
    safety, other = modules(), text.clone()
    other[1, 3:] = 9.0
    one, two = of_modules(safety, features, text, mask), of_modules(safety, features, other, mask)
    assert torch.allclose(one.patches, two.patches, atol=1e-6)
    other[1, 0] = 9.0
    assert (one.patches - of_modules(safety, features, other, mask).patches).abs().max() > 1e-3


def test_looking_changes_neither_the_logits_nor_the_weights():
    safety = modules()
    before = safety.concept_logits(*given())
    weights = {name: value.clone() for name, value in safety.state_dict().items()}
    found = of_modules(safety, *given())
    assert not found.patches.requires_grad
    after = safety.concept_logits(*given())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert weights.keys() == safety.state_dict().keys()
    assert all(torch.equal(weights[name], v) for name, v in safety.state_dict().items())


def test_patches_lie_as_in_the_image_and_a_crooked_number_is_refused():
    assert as_square(torch.arange(9.0)).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(ConfigError, match="10 image positions form no square"):
        as_square(torch.zeros(10))


def test_the_picture_shown_is_the_one_that_the_encoder_gets(stage):
    guarded, _ = load_guarded(stage)
    backbone = guarded.model.backbone
    wide = Image.new("RGB", (300, 100), (255, 0, 0))
    wide.paste((0, 0, 255), (100, 0, 200, 100))  # only the middle survives the crop
    seen = backbone.as_seen(wide)
    assert seen.shape == (3, 64, 64)
    middle = seen[:, 16:48, 16:48].mean((1, 2))
    assert middle.tolist() == pytest.approx([0, 0, 1], abs=0.02)


# --- the picture ---


def test_what_is_looked_at_no_more_than_the_rest_stays_grey():
    image = np.full((64, 64, 3), (0.9, 0.2, 0.2))
    even = overlay(image, np.full((8, 8), 1 / 64))
    assert np.allclose(even[..., 0], even[..., 1]) and np.allclose(even[..., 1], even[..., 2])
    heat = np.full((8, 8), 0.5 / 63)
    heat[2, 5] = 0.5
    shown = overlay(image, heat)
    colourful = np.abs(shown[..., 0] - shown[..., 2])
    assert colourful[20, 44] > 0.2 and colourful[44, 20] < 1e-6
    assert colourful.argmax() // 64 // 8 == 2 and colourful.argmax() % 64 // 8 == 5
    assert top_of(heat) == 0.5 and top_of(np.full((8, 8), 1 / 64)) == 4 / 64


def test_explain_says_what_answer_says_and_draws_a_png(stage, image, tmp_path):
    out = tmp_path / "heat.png"
    told = explain_one(stage.uri, image, ASKED, out, max_new_tokens=4)
    assert answer_one(stage.uri, image, ASKED, max_new_tokens=4).items() <= told.items()
    shares = told["attention"]
    assert shares["image"] + shares["tokens"] == pytest.approx(1, abs=2e-4)
    assert 1 / 64 * shares["image"] <= shares["largest_patch"] + 1e-4 < 1
    with Image.open(out) as drawn:
        drawn.load()
        assert drawn.format == "PNG" and drawn.width > 1000 and len(drawn.getcolors(10**7)) > 100


def test_an_operators_policy_decides_what_follows_in_both(stage, image, tmp_path):
    policy = tmp_path / "own.toml"
    kinds = [name for name in answer_one(stage.uri, image, ASKED)["types"] if name != "clean"]
    policy.write_text(f'version = 1\nname = "own"\ndisabled = {json.dumps(kinds)}\n')
    asked = {"policy": str(policy), "max_new_tokens": 4}
    told = explain_one(stage.uri, image, ASKED, tmp_path / "heat.png", **asked)
    assert answer_one(stage.uri, image, ASKED, **asked).items() <= told.items()
    assert told["verdict"] == "clean"


def test_the_shares_of_an_explanation_are_those_of_the_models_attention(stage, image, tmp_path):
    told = explain_one(stage.uri, image, ASKED, tmp_path / "a.png", max_new_tokens=4)
    guarded, _ = load_guarded(stage)
    features = torch.stack(guarded.encode([Image.open(image).convert("RGB")]))
    found = attention(guarded.model, features, [ASKED])
    assert told["attention"]["tokens"] == round(float(found.tokens[0]), 4)
    assert told["attention"]["largest_patch"] == round(float(found.patches.max()), 4)


def test_a_question_with_dollar_signs_or_of_great_length_can_be_drawn(stage, image, tmp_path):
    for number, question in enumerate(["cost $5_{x$ ?", "red " * 100]):
        out = tmp_path / f"{number}.png"
        explain_one(stage.uri, image, question, out, max_new_tokens=2)
        assert out.stat().st_size > 10_000


@pytest.mark.parametrize("out", ["heat.jpg", "no/such/folder/heat.png", "folder.png"])
def test_a_file_that_cannot_be_written_is_refused(stage, image, tmp_path, out):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match="--out"):
        explain_one(stage.uri, image, ASKED, tmp_path / out, max_new_tokens=2)


def test_what_is_no_image_is_refused_and_nothing_is_written(stage, tmp_path):
    words = tmp_path / "words.png"
    words.write_text("no image")
    with pytest.raises(DataError, match="not a readable image"):
        explain_one(stage.uri, words, ASKED, tmp_path / "heat.png")
    assert not (tmp_path / "heat.png").exists()


# --- concept tokens ---


@pytest.fixture(scope="module")
def telling(tmp_path_factory):
    """A guard that acts on every image, with concept tokens large enough to change answers."""
    store = Store(str(tmp_path_factory.mktemp("telling") / "store"))
    base = small_base(store)
    method = METHOD.model_copy(update={"llm_tokens": "concept", "intervention": "tokens"})
    guarded, _ = load_guarded(small_stage(store, base, method))
    with torch.no_grad():
        for tokens in guarded.model.safety.tokens.for_llm():
            tokens.mul_(50)
    return guarded


def told_prompt(guarded, image):
    features = guarded.encode([Image.open(image).convert("RGB")])
    verdict = forced("privacy", 2, taxonomy=guarded.taxonomy, policy=guarded.policy)
    return features[0], guarded.prompt(ASKED, verdict, intervention="tokens")


def test_a_concept_adds_what_the_answer_loses_without_its_tokens(telling, image):
    features, prompt = told_prompt(telling, image)
    types, levels = contributions(telling.model, features, prompt, "two red circles")
    told = telling.taxonomy.type_ids.index("privacy")
    assert abs(types[told]) > 1e-3 and abs(levels[2]) > 1e-3
    others = [*types[:told], *types[told + 1 :], *levels[:2], *levels[3:]]
    assert max(map(abs, others)) < 1e-4  # not told, so nothing to lose
    answered = teach(ASKED, "two red circles")
    loss = [
        float(telling.model.language_batch_sum([features], [replace(answered, concept=c)])[0])
        for c in (prompt.concept, replace(prompt.concept, types=(0.0,) * len(types)))
    ]
    assert types[told] == pytest.approx(loss[1] - loss[0], abs=1e-3)


def test_an_explanation_tells_the_contributions_where_concepts_were_told(tmp_path, image):
    store = Store(str(tmp_path / "store"))
    method = METHOD.model_copy(update={"llm_tokens": "concept", "intervention": "both"})
    stage = small_stage(store, small_base(store), method)
    out = tmp_path / "heat.png"
    told = explain_one(stage.uri, image, ASKED, out, max_new_tokens=4)
    assert told["verdict"] != "clean"  # else there is nothing to tell
    assert list(told["type_contributions"]) == TAXONOMY.type_ids
    assert list(told["level_contributions"]) == [level.id for level in TAXONOMY.levels]
    assert told["type_contributions"]["clean"] == 0 != max(told["type_contributions"].values())


# --- the command ---


def test_the_command_prints_one_line_of_json_and_writes_the_png(stage, image, tmp_path):
    out = tmp_path / "heat.png"
    command = [PSAVLM, "explain", ASKED, "--artifact", stage.uri, "--image", str(image)]
    done = subprocess.run(
        [*command, "--out", str(out), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert {
        "model",
        "verdict",
        "risk",
        "types",
        "levels",
        "action",
        "answer",
        "attention",
        "out",
    } == set(told)
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("which", [[], ["--model", "champion", "--artifact", "a/b/c"]])
def test_exactly_one_of_model_and_artifact_is_asked_for(which, image, capsys, monkeypatch):
    from flows.cli.main import main

    monkeypatch.setattr(sys, "argv", ["psavlm", "explain", ASKED, "--image", str(image), *which])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "give one of them" in capsys.readouterr().err


def test_the_same_picture_is_drawn_every_time(stage, image, tmp_path):
    hashes = set()
    for name in ("a.png", "b.png"):
        explain_one(stage.uri, image, ASKED, tmp_path / name, max_new_tokens=2)
        hashes.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(hashes) == 1
