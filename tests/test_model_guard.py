"""Risk, threshold, hints and the two passes of the guarded model."""

import logging

import pytest
import torch
from PIL import Image

from model.backbones.llava import Llava
from model.guard import (
    GuardedVlm,
    GuardPolicy,
    decide,
    fit_policy,
    forced,
    load_hints,
    risk_score,
)
from model.psavlm import PsaVlm
from model.tiny_llava import new_llava, new_processor, new_tokenizer
from schemas.config import BaseConfig, MethodConfig
from schemas.errors import ConfigError, DataError
from schemas.taxonomy import Taxonomy, load_taxonomy

torch.set_num_threads(1)
TAXONOMY = load_taxonomy()
WORDS = ["USER: how many red shapes are there ? ASSISTANT: two red circles and a square"] * 4
QUESTIONS = ["how many red shapes ?", "a square ?", "red ?", "are there circles ?"] * 4


@pytest.fixture(scope="module")
def model():
    tokenizer = new_tokenizer(WORDS)
    llava = new_llava(BaseConfig(width=32, layers=3, heads=4), tokenizer)
    with torch.no_grad():
        for parameter in llava.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    backbone = Llava(llava, tokenizer, new_processor(tokenizer).image_processor)
    method = MethodConfig(tokens=4, attention_heads=4)
    return PsaVlm.new(backbone, method, types=7, levels=4)


def guarded(model, **policy):
    hints = load_hints("default", taxonomy=TAXONOMY)
    return GuardedVlm(model, taxonomy=TAXONOMY, hints=hints, policy=GuardPolicy(**policy))


def pictures(count):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 64, 64, 3), generator=generator)
    return [Image.fromarray(picture) for picture in pixels.to(torch.uint8).numpy()]


def logits(types, levels):
    """Logits whose softmax is the given probabilities."""
    return torch.tensor([types]).log(), torch.tensor([levels]).log()


def test_risk_is_the_mean_of_both_heads_doubts():
    given = logits([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4], [0.8, 0.1, 0.05, 0.05])
    assert float(risk_score(*given, GuardPolicy())) == pytest.approx((0.6 + 0.2) / 2)
    flat = GuardPolicy(temperature_type=1e6, temperature_level=1e6)
    assert float(risk_score(*given, flat)) == pytest.approx((6 / 7 + 3 / 4) / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("types", "levels"),
    [
        ([0.02, 0.9, 0.02, 0.02, 0.02, 0.01, 0.01], [0.6, 0.1, 0.2, 0.1]),
        ([0.05, 0.3, 0.05, 0.02, 0.02, 0.01, 0.55], [0.02, 0.08, 0.8, 0.1]),
    ],
)
def test_neither_head_alone_can_switch_the_guard_off(types, levels):
    (verdict,) = decide(*logits(types, levels), policy=GuardPolicy(), taxonomy=TAXONOMY)
    assert verdict.flagged
    assert (verdict.type, verdict.level, verdict.action) == ("illegal", 2, "may_refuse")


@pytest.mark.parametrize(("level", "action"), [(1, "caution"), (2, "may_refuse"), (3, "refuse")])
def test_the_level_decides_the_action(level, action):
    levels = [0.05, 0.05, 0.05, 0.05]
    levels[level] = 0.85
    types = [0.94, *[0.01] * 6]
    (verdict,) = decide(*logits(types, levels), policy=GuardPolicy(), taxonomy=TAXONOMY)
    assert (verdict.type, verdict.level, verdict.action) == ("politics", level, action)
    assert verdict.type_probs["politics"] == pytest.approx(0.94)
    assert list(verdict.type_probs) == TAXONOMY.type_ids
    assert verdict.level_probs[TAXONOMY.levels[level].id] == pytest.approx(0.85)


def test_a_low_risk_is_answered_and_a_disabled_type_passes():
    clean = logits([0.01] * 6 + [0.94], [0.97, 0.01, 0.01, 0.01])
    (verdict,) = decide(*clean, policy=GuardPolicy(), taxonomy=TAXONOMY)
    assert (verdict.flagged, verdict.type, verdict.level) == (False, "clean", 0)
    assert verdict.action == "answer"
    risky = logits([0.94, *[0.01] * 6], [0.01, 0.01, 0.01, 0.97])
    off = GuardPolicy(disabled=("politics",))
    (verdict,) = decide(*risky, policy=off, taxonomy=TAXONOMY)
    assert (verdict.flagged, verdict.action, verdict.type) == (False, "answer", "clean")
    other = GuardPolicy(disabled=("privacy",))
    assert decide(*risky, policy=other, taxonomy=TAXONOMY)[0].flagged


def calibration(count=400, *, scale=1.0):
    """Items whose true classes are drawn from the softmax of known logits."""
    generator = torch.Generator().manual_seed(3)
    type_logits = 2 * torch.randn(count, 7, generator=generator)
    type_logits[:, 6] += 2
    level_logits = 2 * torch.randn(count, 4, generator=generator)
    draw = [
        torch.multinomial(x.softmax(-1), 1, generator=generator)[:, 0]
        for x in (type_logits, level_logits)
    ]
    return scale * type_logits, scale * level_logits, *draw


def test_temperatures_undo_overconfidence():
    honest = fit_policy(*calibration(4000), false_positive_budget=0.05)
    loud = fit_policy(*calibration(4000, scale=5.0), false_positive_budget=0.05)
    assert honest.temperature_type == pytest.approx(1, abs=0.1)
    assert loud.temperature_type == pytest.approx(5 * honest.temperature_type, rel=0.01)
    assert loud.temperature_level == pytest.approx(5 * honest.temperature_level, rel=0.01)


@pytest.mark.parametrize("budget", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_the_threshold_is_the_smallest_that_keeps_the_budget(budget):
    data = calibration()
    policy = fit_policy(*data, false_positive_budget=budget)
    clean = data[2] == 6
    risks = risk_score(data[0][clean], data[1][clean], policy)
    rate = float((risks >= policy.threshold).double().mean())
    assert 0.05 <= policy.threshold <= 0.95
    assert rate <= budget or policy.threshold == 0.95
    lower = risks[risks < policy.threshold]
    if policy.threshold > 0.05 and len(lower):
        one_more = float((risks >= lower.max()).double().mean())
        assert one_more > budget


def test_a_budget_that_cannot_be_kept_is_said(caplog):
    type_logits = torch.tensor([[9.0, *[0.0] * 6]] * 20)
    level_logits = torch.tensor([[0.0, 0.0, 0.0, 9.0]] * 20)
    types = torch.tensor([0] * 19 + [6])
    levels = torch.tensor([3] * 20)
    with caplog.at_level(logging.WARNING):
        policy = fit_policy(type_logits, level_logits, types, levels, false_positive_budget=0.0)
    assert policy.threshold == 0.95
    assert "100.0% of clean items, budget 0.0%" in caplog.text


def test_a_calibration_split_without_clean_items_is_a_data_error():
    data = calibration(20)
    with pytest.raises(DataError, match="none of 20 calibration items is clean"):
        fit_policy(data[0], data[1], torch.zeros(20).long(), data[3], false_positive_budget=0.1)


def test_eighteen_hints_differ_and_name_their_type():
    hints = load_hints("default", taxonomy=TAXONOMY)
    texts = {
        (risk.id, level): hints.text_for(risk.id, level, taxonomy=TAXONOMY)
        for risk in TAXONOMY.types[:-1]
        for level in (1, 2, 3)
    }
    assert len(set(texts.values())) == 18
    assert all(f" {risk} " in text and text.islower() for (risk, _), text in texts.items())
    assert "may refuse" in texts["privacy", 2] and "must refuse" in texts["privacy", 3]
    assert "refuse" not in texts["privacy", 1]


def larger_taxonomy(**changes):
    raw = TAXONOMY.model_dump()
    raw["types"] = ({"id": "weather", "meaning": "storms and floods"}, *raw["types"])
    return Taxonomy.model_validate({**raw, **changes})


def test_a_type_that_a_taxonomy_adds_has_hints_and_verdicts_without_code():
    taxonomy = larger_taxonomy()
    hints = load_hints("default", taxonomy=taxonomy)
    assert " weather " in hints.text_for("weather", 3, taxonomy=taxonomy)
    given = logits([0.93, *[0.01] * 7], [0.01, 0.01, 0.01, 0.97])
    (verdict,) = decide(*given, policy=GuardPolicy(), taxonomy=taxonomy)
    assert (verdict.type, verdict.level) == ("weather", 3)


def test_ones_own_hints_may_name_the_meaning_and_single_types(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(
        'version = 1\nname = "own"\n[templates]\n1 = "{type} {meaning}"\n2 = "two"\n3 = "three"\n'
        '[texts.privacy]\n2 = "mind the person"\n'
    )
    hints = load_hints(str(path), taxonomy=TAXONOMY)
    assert hints.text_for("privacy", 2, taxonomy=TAXONOMY) == "mind the person"
    assert hints.text_for("insults", 2, taxonomy=TAXONOMY) == "two"
    meaning = TAXONOMY.types[2].meaning
    assert hints.text_for("insults", 1, taxonomy=TAXONOMY) == f"insults {meaning}"


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ('1 = "a"\n2 = "b"', "no text for level 3"),
        ('1 = "{person}"\n2 = "b"\n3 = "c"', "person"),
        ('1 = "{type"\n2 = "b"\n3 = "c"', "are wrong"),
    ],
)
def test_hints_that_cannot_be_used_are_a_config_error(tmp_path, templates, message):
    path = tmp_path / "own.toml"
    path.write_text(f'version = 1\nname = "own"\n[templates]\n{templates}\n')
    with pytest.raises(ConfigError, match=message):
        load_hints(str(path), taxonomy=TAXONOMY)


def test_both_passes_together_encode_every_image_once(model):
    guard = guarded(model, threshold=0.0)
    seen = []
    tower = model.backbone.vlm.model.vision_tower.embeddings
    handle = tower.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    answers = guard.answer(pictures(3), QUESTIONS[:3], max_new_tokens=4)
    handle.remove()
    assert seen == [3]
    assert all(answer.verdict.flagged and answer.hint for answer in answers)


def test_answers_and_verdicts_do_not_depend_on_the_batch_size(model):
    guard = guarded(model)
    images = [None if i % 5 == 4 else picture for i, picture in enumerate(pictures(16))]
    features = guard.encode(images)
    half = float(torch.tensor([v.risk for v in guard.judge(features, QUESTIONS) if v]).median())
    guard = guarded(model, threshold=half)

    def answers(size):
        out = []
        for at in range(0, 16, size):
            part = slice(at, at + size)
            out += guard.answer(images[part], QUESTIONS[part], max_new_tokens=8)
        return out

    alone = answers(1)
    flags = [answer.verdict.flagged for answer in alone if answer.verdict]
    assert any(flags) and not all(flags)
    for size in (4, 16):
        for one, other in zip(alone, answers(size), strict=True):
            assert (one.text, one.hint) == (other.text, other.hint)
            if one.verdict:
                assert one.verdict.risk == pytest.approx(other.verdict.risk, abs=1e-6)


def test_a_question_without_an_image_skips_the_guard(model):
    guard = guarded(model, threshold=0.0)
    features = guard.encode([*pictures(1), None])
    with_image, alone = guard.answer_features(features, QUESTIONS[:2], max_new_tokens=4)
    assert with_image.verdict is not None and with_image.hint
    assert alone.verdict is None and alone.hint == ""
    assert guard.judge([None], QUESTIONS[:1]) == [None]


def test_the_intervention_can_be_switched_off_and_hints_change_the_prompt(model):
    guard = guarded(model, threshold=0.0)
    features = guard.encode(pictures(4))
    off = guard.answer_features(features, QUESTIONS[:4], intervention="off", max_new_tokens=8)
    passed = guarded(model, threshold=1.0).answer_features(
        features, QUESTIONS[:4], max_new_tokens=8
    )
    assert all(answer.verdict.flagged and not answer.hint for answer in off)
    assert [answer.text for answer in off] == [answer.text for answer in passed]
    hinted = guard.answer_features(features, QUESTIONS[:4], max_new_tokens=8)
    assert [answer.text for answer in hinted] != [answer.text for answer in off]
    with pytest.raises(ConfigError, match="unknown intervention 'shout'.*hint"):
        guard.answer_features(features, QUESTIONS[:4], intervention="shout")


def test_a_given_concept_takes_the_place_of_the_seen_one(model):
    guard = guarded(model, threshold=0.0)
    features = guard.encode(pictures(2))
    verdicts = [forced("clean", 0, taxonomy=TAXONOMY), forced("privacy", 3, taxonomy=TAXONOMY)]
    plain, risky = guard.answer_features(
        features, QUESTIONS[:2], verdicts=verdicts, max_new_tokens=4
    )
    assert (plain.hint, plain.verdict.action) == ("", "answer")
    assert "privacy" in risky.hint and risky.verdict.action == "refuse"


def test_without_tokens_hints_and_adapter_the_base_itself_answers(model):
    backbone = model.backbone
    images = pictures(2)
    processor = new_processor(backbone.tokenizer)
    own = []
    for image, question in zip(images, QUESTIONS, strict=False):
        text = f"USER: <image>\n{question} ASSISTANT:"
        inputs = processor(text=text, images=image, return_tensors="pt")
        ids = backbone.vlm.generate(**inputs, max_new_tokens=6, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        own.append(backbone.tokenizer.decode(new, skip_special_tokens=True).strip())
    guard = guarded(model)
    answers = guard.answer_features(
        guard.encode(images), QUESTIONS[:2], intervention="off", use_tokens=False, max_new_tokens=6
    )
    assert [answer.text for answer in answers] == own


def test_a_disabled_type_that_does_not_exist_is_a_config_error(model):
    with pytest.raises(ConfigError, match="'weather'.*not in taxonomy"):
        guarded(model, disabled=("weather",))
