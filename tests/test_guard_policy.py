"""What an operator may decide, how a threshold keeps its budget, and what a forced concept does."""

import logging
import math

import pytest
import torch
from scipy.stats import binom

from model.backbones.llava import Llava
from model.calibration import most_flagged
from model.guard import GuardedVlm, GuardPolicy, decide, fit_policy, forced, risk_score
from model.prompts import Concept, ask, teach, tokenize
from model.psavlm import PsaVlm
from model.tiny_llava import new_llava, new_processor, new_tokenizer
from schemas.config import BaseConfig, MethodConfig
from schemas.errors import ConfigError, DataError
from schemas.hints import load_hints
from schemas.policies import load_policy
from schemas.taxonomy import load_taxonomy

torch.set_num_threads(1)
TAXONOMY = load_taxonomy()
HINTS = load_hints("default", taxonomy=TAXONOMY)
WORDS = ["USER: how many red shapes are there ? ASSISTANT: two red circles and a square"] * 4
QUESTIONS = ["how many ?", "red ?", "are there circles ?", "a square ?"] * 4


def logits(types, levels):
    return torch.log(torch.tensor([types])), torch.log(torch.tensor([levels]))


RISKY = logits([0.94, *[0.01] * 6], [0.01, 0.02, 0.94, 0.03])  # politics, level 2


def own(folder, text: str) -> str:
    (folder / "own.toml").write_text(f'version = 1\nname = "own"\n{text}\n')
    return str(folder / "own.toml")


@pytest.fixture(scope="module")
def model() -> PsaVlm:
    tokenizer = new_tokenizer(WORDS)
    llava = new_llava(BaseConfig(width=32, layers=3, heads=4), tokenizer)
    backbone = Llava(llava, tokenizer, new_processor(tokenizer).image_processor)
    method = MethodConfig(tokens=4, attention_heads=4, llm_tokens="concept", intervention="both")
    return PsaVlm.new(backbone, method, types=7, levels=4)


@pytest.fixture(scope="module")
def features():
    return torch.randn(16, 64, 32, generator=torch.Generator().manual_seed(0))


def guarded(model: PsaVlm, **policy) -> GuardedVlm:
    return GuardedVlm(model, taxonomy=TAXONOMY, hints=HINTS, policy=GuardPolicy(**policy))


# --- the operator's policy ---


def test_the_shipped_policy_changes_nothing():
    policy = GuardPolicy(threshold=0.3).operated(load_policy("default", taxonomy=TAXONOMY))
    assert decide(*RISKY, policy=policy, taxonomy=TAXONOMY) == decide(
        *RISKY, policy=GuardPolicy(threshold=0.3), taxonomy=TAXONOMY
    )


def test_a_type_that_the_operator_disables_passes(tmp_path):
    policy = load_policy(own(tmp_path, 'disabled = ["politics"]'), taxonomy=TAXONOMY)
    (verdict,) = decide(*RISKY, policy=GuardPolicy().operated(policy), taxonomy=TAXONOMY)
    assert (verdict.flagged, verdict.action, verdict.type) == (False, "answer", "clean")


@pytest.mark.parametrize(
    ("action", "flagged", "words"),
    [
        ("answer", False, ""),
        ("caution", True, "answer with care"),
        ("may_refuse", True, "may refuse"),
        ("refuse", True, "must refuse"),
    ],
)
def test_the_operator_maps_a_level_to_an_action_and_the_hint_follows(
    tmp_path, model, action, flagged, words
):
    policy = load_policy(own(tmp_path, f'[actions]\n2 = "{action}"'), taxonomy=TAXONOMY)
    guard = guarded(model, **GuardPolicy().operated(policy).model_dump())
    (verdict,) = decide(*RISKY, policy=guard.policy, taxonomy=TAXONOMY)
    assert (verdict.flagged, verdict.action) == (flagged, action)
    prompt = guard.prompt("red ?", verdict, intervention="both")
    assert words in prompt.hint and bool(prompt.hint) == flagged == (prompt.concept is not None)
    if flagged:
        # What is told to the language model is what its action says.
        assert prompt.concept.levels.index(max(prompt.concept.levels)) == {
            "caution": 1, "may_refuse": 2, "refuse": 3
        }[action]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('disabled = ["weather"]', r"disabled types \['weather'\] are not in taxonomy"),
        ('disabled = ["clean"]', r"disabled types \['clean'\]"),
        ('[actions]\n4 = "refuse"', r"actions for levels \[4\].*levels 1 to 3"),
        ('[actions]\n0 = "refuse"', r"actions for levels \[0\]"),
        ('[actions]\n1 = "shout"', "actions.1 = 'shout': must be 'answer'"),
        ("silent = true", "unknown key 'silent'"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_a_config_error(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_policy(own(tmp_path, text), taxonomy=TAXONOMY)


# --- the threshold ---


def test_the_bound_flags_as_many_as_surely_keep_the_budget():
    """Clopper-Pearson by its definition: were the rate the budget, so few would be rare."""
    for count, budget in ((400, 0.05), (400, 0.01), (1000, 0.01), (150, 0.1)):
        most = most_flagged(count, budget)
        assert most >= 0
        assert binom.cdf(most, count, budget) <= 0.05 < binom.cdf(most + 1, count, budget)
    assert most_flagged(100, 0.01) == -1  # 0.99 ** 100 is 0.37
    assert most_flagged(298, 0.01) == -1 and most_flagged(299, 0.01) == 0
    assert most_flagged(50, 0.0) == -1 and most_flagged(50, 1.0) == 50


def calibration(count=2000):
    generator = torch.Generator().manual_seed(3)
    type_logits = 2 * torch.randn(count, 7, generator=generator)
    type_logits[:, 6] += 2
    level_logits = 2 * torch.randn(count, 4, generator=generator)
    draw = [
        torch.multinomial(x.softmax(-1), 1, generator=generator)[:, 0]
        for x in (type_logits, level_logits)
    ]
    return type_logits, level_logits, *draw


def test_one_threshold_holds_the_budget_for_all_types_together_on_new_clean_items():
    budget, kept = 0.05, 0
    for seed in range(20):
        types, levels, *classes = calibration(4000)
        order = torch.randperm(4000, generator=torch.Generator().manual_seed(seed))
        seen, fresh = order[:1000], order[1000:]
        policy = fit_policy(
            types[seen], levels[seen], *(c[seen] for c in classes),
            false_positive_budget=budget, rule="bound",
        )  # fmt: skip
        clean = fresh[classes[0][fresh] == 6]
        verdicts = decide(types[clean], levels[clean], policy=policy, taxonomy=TAXONOMY)
        kept += sum(v.flagged for v in verdicts) / len(verdicts) <= budget
    assert kept >= 18  # 95 % of calibrations, where the share of the calibration items keeps half


def test_too_few_clean_items_for_the_bound_are_told_and_none_of_them_is_flagged(caplog):
    data = calibration(60)
    with caplog.at_level(logging.WARNING):
        policy = fit_policy(*data, false_positive_budget=0.01, rule="bound")
    assert "cannot show that at most 1.0% are flagged: that needs 299" in caplog.text
    assert math.ceil(math.log(0.05) / math.log(0.99)) == 299
    clean = data[2] == 6
    verdicts = decide(data[0][clean], data[1][clean], policy=policy, taxonomy=TAXONOMY)
    assert not any(verdict.flagged for verdict in verdicts)
    assert policy.flagged_at_most == pytest.approx(1 - 0.05 ** (1 / int(clean.sum())))


def test_questions_about_one_image_count_once_in_the_bound():
    data = calibration(600)
    clean = data[2] == 6
    place = {row: n for n, row in enumerate(clean.nonzero()[:, 0].tolist())}
    images = [f"clean {place[row] // 3}" if row in place else str(row) for row in range(600)]
    asked = {"false_positive_budget": 0.05, "rule": "bound"}
    alone, shared = fit_policy(*data, **asked), fit_policy(*data, **asked, images=images)
    assert alone.calibrated_on == len(place)
    assert shared.calibrated_on == -(-len(place) // 3)
    risks = risk_score(data[0][clean], data[1][clean], shared)
    flagged = {n // 3 for n, risk in enumerate(risks.tolist()) if risk >= shared.threshold}
    assert len(flagged) <= most_flagged(shared.calibrated_on, 0.05)
    assert shared.threshold >= alone.threshold


def test_the_bound_is_kept_where_confident_errors_are_many():
    """Eight of two hundred clean items at a risk near 1, of which the budget allows four."""
    types, levels = (torch.full((200, n), -6.0) for n in (7, 4))
    types[:, 6], levels[:, 0] = 6.0, 6.0
    for row in range(8):
        types[row, 0], types[row, 6] = 9.0 + row, -9.0
        levels[row, 2], levels[row, 0] = 9.0 + row, -9.0
    labels = torch.full((200,), 6), torch.zeros(200, dtype=torch.long)
    policy = fit_policy(types, levels, *labels, false_positive_budget=0.05, rule="bound")
    verdicts = decide(types, levels, policy=policy, taxonomy=TAXONOMY)
    assert sum(verdict.flagged for verdict in verdicts) <= most_flagged(200, 0.05) == 4
    assert policy.flagged_at_most <= 0.05


def test_a_temperature_without_a_label_is_one(caplog):
    types, levels, of_type, _ = calibration(100)
    unknown = torch.full((100,), -100)
    with caplog.at_level(logging.WARNING):
        policy = fit_policy(types, levels, of_type, unknown, false_positive_budget=0.1)
    assert policy.temperature_level == 1.0 and "no calibration item has this label" in caplog.text


def test_a_disabled_type_hides_no_other_risk_and_flags_nothing_itself():
    off = GuardPolicy(threshold=0.3, disabled=("politics",))
    both = logits([0.52, 0.47, *[0.002] * 5], [0.001, 0.002, 0.002, 0.995])
    (found,) = decide(*both, policy=off, taxonomy=TAXONOMY)
    assert found.flagged and found.type == TAXONOMY.type_ids[1]
    (found,) = decide(*RISKY, policy=off, taxonomy=TAXONOMY)
    assert not found.flagged and found.type == "clean"


def test_logits_that_are_not_finite_are_no_verdict():
    broken = RISKY[0].clone(), RISKY[1].clone()
    broken[0][0, 2] = math.nan
    with pytest.raises(DataError, match="not finite"):
        decide(*broken, policy=GuardPolicy(), taxonomy=TAXONOMY)


def test_items_without_a_label_are_left_out_of_the_calibration():
    types, levels, of_type, of_level = calibration(500)
    whole = fit_policy(types, levels, of_type, of_level, false_positive_budget=0.05)
    more = torch.cat([types, 50 * torch.randn(40, 7)]), torch.cat([levels, torch.randn(40, 4)])
    missing = torch.full((40,), -100)
    padded = fit_policy(
        *more, torch.cat([of_type, missing]), torch.cat([of_level, missing]),
        false_positive_budget=0.05,
    )  # fmt: skip
    assert padded == whole


# --- what is put into the prompt ---


def test_a_concept_is_told_behind_the_question_and_only_where_the_guard_acts(model, features):
    guard = guarded(model, threshold=0.0)
    verdict = forced("privacy", 3, taxonomy=TAXONOMY)
    shown = guard.prompt("red ?", verdict, intervention="tokens")
    assert shown.concept.types.index(1.0) == TAXONOMY.type_ids.index("privacy")
    assert shown.concept.levels == (0.0, 0.0, 0.0, 1.0) and not shown.hint
    assert guard.prompt("red ?", forced("clean", 0, taxonomy=TAXONOMY), intervention="both") == ask(
        "red ?"
    )
    plain, told = (model.compose(features[:1], [p], use_tokens=True) for p in (ask("red ?"), shown))
    (text,) = tokenize(model.backbone, [shown], with_image=[True], training=False)
    tail = model.backbone.tokenizer.decode(text.ids[text.asked :])
    assert tail == " ASSISTANT:"
    at = plain.embeds.shape[1] - (len(text.ids) - text.asked)
    assert told.embeds.shape[1] == plain.embeds.shape[1] + 4
    assert torch.equal(told.embeds[:, :at], plain.embeds[:, :at])
    assert torch.equal(told.embeds[:, at + 4 :], plain.embeds[:, at:])
    types, levels = torch.tensor(shown.concept.types), torch.tensor(shown.concept.levels)
    torch.testing.assert_close(told.embeds[0, at : at + 4], model.safety.tokens.told(types, levels))


def test_told_tokens_are_never_taught(model, features):
    concept = Concept((1.0, *[0.0] * 6), (0.0, 1.0, 0.0, 0.0))
    plain = teach("red ?", "two circles")
    told = type(plain)(plain.messages, concept=concept)
    rows = [
        model.compose(features[:1], [p], use_tokens=True, training=True).labels[0]
        for p in (plain, told)
    ]
    assert len(rows[1]) == len(rows[0]) + 4
    assert torch.equal(*(row[row != -100] for row in rows))


def test_a_low_threshold_does_not_tell_that_the_image_is_clean(model):
    """Flagged at p(clean) = 0.7: what is told is which risk it is, given that there is one."""
    types, levels = [0.2, 0.05, 0.05, 0.0, 0.0, 0.0, 0.7], [0.7, 0.05, 0.05, 0.2]
    guard = guarded(model, threshold=0.1)
    (verdict,) = decide(*logits(types, levels), policy=guard.policy, taxonomy=TAXONOMY)
    concept = guard.prompt("red ?", verdict, intervention="tokens").concept
    assert verdict.flagged and concept.types[6] == concept.levels[0] == 0
    assert concept.types[0] == pytest.approx(2 / 3, abs=1e-6)
    assert sum(concept.types) == pytest.approx(1) and sum(concept.levels) == pytest.approx(1)
    other = guarded(model, threshold=0.1, disabled=("illegal",))
    without = other.prompt("red ?", verdict, intervention="tokens").concept
    assert without.types[1] == 0 and without.types[0] == pytest.approx(0.8, abs=1e-6)


def test_unflagged_images_are_asked_exactly_as_the_base_would_be(model, features):
    guard = guarded(model, threshold=1.0)
    answers = guard.answer_features(
        features[:4], QUESTIONS[:4], intervention="both", max_new_tokens=6
    )
    assert not any(answer.verdict.flagged for answer in answers)
    bare = model.write(
        features[:4], [ask(q) for q in QUESTIONS[:4]], use_tokens=False, max_new_tokens=6
    )
    assert [answer.text for answer in answers] == bare


@pytest.mark.parametrize("intervention", ["tokens", "both"])
def test_answers_with_concept_tokens_do_not_depend_on_the_batch_size(model, features, intervention):
    risks = [v.risk for v in guarded(model).judge(features, QUESTIONS)]
    guard = guarded(model, threshold=sorted(risks)[8])

    def answers(size):
        return [
            (answer.text, answer.hint)
            for at in range(0, 16, size)
            for answer in guard.answer_features(
                features[at : at + size],
                QUESTIONS[at : at + size],
                intervention=intervention,
                max_new_tokens=8,
            )
        ]

    alone = answers(1)
    assert len({text for text, _ in alone}) > 1
    assert alone == answers(4) == answers(16)


def test_tokens_of_a_model_that_has_none_are_a_config_error(features):
    tokenizer = new_tokenizer(WORDS)
    llava = new_llava(BaseConfig(width=32, layers=3, heads=4), tokenizer)
    backbone = Llava(llava, tokenizer, new_processor(tokenizer).image_processor)
    static = PsaVlm.new(backbone, MethodConfig(tokens=4, attention_heads=4), types=7, levels=4)
    with pytest.raises(ConfigError, match="no concept tokens.*'hint' or 'off'"):
        guarded(static, threshold=0.0).answer_features(
            features[:1], QUESTIONS[:1], intervention="tokens"
        )


# --- forced concepts ---


@pytest.mark.parametrize(("name", "level"), [("weather", 1), ("privacy", 4), ("privacy", -1)])
def test_a_concept_outside_the_taxonomy_cannot_be_forced(name, level):
    with pytest.raises(ConfigError, match=rf"concept '{name}' of level {level} is not in taxonomy"):
        forced(name, level, taxonomy=TAXONOMY)


def test_a_forced_concept_is_acted_on_as_the_policy_says():
    policy = GuardPolicy(disabled=("privacy",), actions={1: "answer", 2: "refuse"})
    told = {level: forced("privacy", level, taxonomy=TAXONOMY, policy=policy) for level in range(4)}
    assert [told[level].flagged for level in range(4)] == [False, False, True, True]
    assert [told[level].action for level in range(4)] == ["answer", "answer", "refuse", "refuse"]
