"""The head hears the question, ignores padding, and knows the taxonomy by its size alone."""

import pytest
import torch

from model.heads import QUERIES, CrossAttentionHead
from model.losses import answer_loss, concept_loss, language_loss
from model.safety import SafetyModules
from schemas.config import MethodConfig
from schemas.errors import ConfigError

torch.set_num_threads(1)
B, P, V, D, T = 6, 16, 24, 32, 5


def modules(query="text", *, types=7, levels=4, **changes):
    torch.manual_seed(0)
    method = MethodConfig(query=query, tokens=8, attention_heads=4, **changes)
    return SafetyModules(method, vision_dim=V, llm_dim=D, types=types, levels=levels)


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(B, P, V, generator=generator)
    text = 0.02 * torch.randn(B, T, D, generator=generator)
    return features, text, torch.ones(B, T, dtype=torch.bool)


def spread(one, two):
    return max(float((a - b).detach().abs().max()) for a, b in zip(one, two, strict=True))


def test_the_heads_reading_depends_on_the_question_with_the_image_fixed():
    features, text, mask = inputs()
    safety = modules()
    same = features[:1].expand(B, -1, -1)
    type_logits, level_logits = safety.concept_logits(same, text, mask)
    assert type_logits.shape == (B, 7) and level_logits.shape == (B, 4)
    assert float(type_logits.detach().std(0).max()) > 1e-3
    assert float(level_logits.detach().std(0).max()) > 1e-3


def test_every_real_text_position_counts_not_only_the_first():
    features, text, mask = inputs()
    other = text.clone()
    other[:, -1] = text.flip(0)[:, -1]
    safety = modules()
    ours = safety.concept_logits(features, text, mask)
    assert spread(ours, safety.concept_logits(features, other, mask)) > 1e-4
    first = modules("first_token")
    old = first.concept_logits(features, text, mask)
    assert spread(old, first.concept_logits(features, other, mask)) == 0
    other[:, 0] = text.flip(0)[:, 0]
    assert spread(old, first.concept_logits(features, other, mask)) > 1e-4


@pytest.mark.parametrize("query", sorted(QUERIES))
def test_padding_changes_nothing(query):
    features, text, mask = inputs()
    mask[0, 3:] = False
    text[0, 3:] = 7.0
    safety = modules(query)
    logits = safety.concept_logits(features, text, mask)
    longer = torch.cat([text, 9 * torch.ones(B, 4, D)], dim=1)
    more = torch.cat([mask, torch.zeros(B, 4, dtype=torch.bool)], dim=1)
    assert spread(logits, safety.concept_logits(features, longer, more)) < 1e-6
    alone = safety.concept_logits(features[:1], text[:1, :3], mask[:1, :3])
    assert spread([x[:1] for x in logits], alone) < 1e-6


def test_padding_on_the_left_changes_nothing_either():
    features, text, mask = inputs()
    pads = torch.zeros(B, 2, dtype=torch.bool)
    longer = torch.cat([9 * torch.ones(B, 2, D), text], dim=1)
    for query in sorted(QUERIES):
        safety = modules(query)
        logits = safety.concept_logits(features, text, mask)
        left = safety.concept_logits(features, longer, torch.cat([pads, mask], dim=1))
        assert spread(logits, left) < 1e-6


def test_the_image_only_query_hears_no_question():
    features, text, mask = inputs()
    safety = modules("image_only")
    logits = safety.concept_logits(features, text, mask)
    assert spread(logits, safety.concept_logits(features, 5 * text.flip(0), mask)) == 0
    assert spread(logits, safety.concept_logits(features.flip(0), text, mask)) > 1e-3


@pytest.mark.parametrize("query", sorted(QUERIES))
def test_every_parameter_of_the_concept_part_gets_a_gradient(query):
    features, text, mask = inputs()
    safety = modules(query)
    types, levels = torch.arange(B) % 7, torch.arange(B) % 4
    concept_loss(*safety.concept_logits(features, text, mask), types, levels).backward()
    silent = [
        name
        for name, p in safety.named_parameters()
        if name != "tokens.s_llm" and (p.grad is None or not p.grad.abs().sum())
    ]
    assert silent == []
    assert safety.tokens.s_llm.grad is None


def puzzle(seed):
    """Two things lie in each image, and the question says which of the two is meant."""
    fixed = torch.Generator().manual_seed(1)
    kinds, places = torch.randn(3, V, generator=fixed), torch.randn(2, V, generator=fixed)
    words = torch.randn(2, D, generator=fixed)
    noise = torch.Generator().manual_seed(seed)
    features = 0.3 * torch.randn(90, P, V, generator=noise)
    things = torch.randint(0, 3, (90, 2), generator=noise)
    for place in (0, 1):
        features[:, 5 + place] += 2 * (kinds[things[:, place]] + places[place])
    asked = torch.arange(90) % 2
    text = 0.02 * words[asked][:, None].expand(-1, 2, -1)
    mask = torch.ones(90, 2, dtype=torch.bool)
    types = things[torch.arange(90), asked]
    return (features, text, mask), types, (types > 0).long()


def unseen_accuracy(query):
    safety = modules(query, types=3, levels=2)
    optimizer = torch.optim.AdamW(safety.parameters(), lr=3e-3)
    seen, types, levels = puzzle(2)
    for _ in range(100):
        optimizer.zero_grad()
        concept_loss(*safety.concept_logits(*seen), types, levels).backward()
        optimizer.step()
    unseen, types, levels = puzzle(3)
    type_logits, level_logits = safety.concept_logits(*unseen)
    right = (type_logits.argmax(1) == types) & (level_logits.argmax(1) == levels)
    return float(right.float().mean())


def test_a_head_learns_what_only_image_and_question_together_tell():
    assert unseen_accuracy("text") > 0.95
    assert unseen_accuracy("image_only") < 0.75


def test_a_seventh_risk_type_needs_only_a_larger_taxonomy():
    features, text, mask = inputs()
    type_logits, level_logits = modules(types=8, levels=5).concept_logits(features, text, mask)
    assert type_logits.shape == (B, 8) and level_logits.shape == (B, 5)


def test_cached_half_precision_features_are_taken():
    features, text, mask = inputs()
    safety = modules()
    half = safety.concept_logits(features.bfloat16(), text.bfloat16(), mask)
    assert half[0].dtype == torch.float32
    assert spread(half, safety.concept_logits(features, text, mask)) < 0.05


def test_the_two_token_sets_are_independent_and_small():
    tokens = modules(types=7).tokens
    assert tokens.s_llm.shape == tokens.s_head.shape == (8, D)
    assert not torch.equal(tokens.s_llm, tokens.s_head)
    assert 0.015 < float(tokens.s_llm.detach().std()) < 0.025
    assert modules(llm_tokens="none").tokens.s_llm is None


def test_heads_that_do_not_divide_the_width_are_a_config_error():
    with pytest.raises(ConfigError, match="attention_heads 5 does not divide .* 32"):
        CrossAttentionHead(MethodConfig(attention_heads=5), D, types=7, levels=4)


def test_concept_loss_is_ten_times_the_sum_of_both_entropies():
    types, levels = torch.tensor([0, 2]), torch.tensor([1, 0])
    zeros = torch.zeros(2, 3), torch.zeros(2, 4)
    expected = torch.log(torch.tensor(3.0)) + torch.log(torch.tensor(4.0))
    torch.testing.assert_close(concept_loss(*zeros, types, levels), 10 * expected)
    torch.testing.assert_close(concept_loss(*zeros, types, levels, weight=1.0), expected)


def test_language_loss_is_the_mean_over_answer_tokens_and_zero_without_any():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 11, requires_grad=True)
    labels = torch.tensor([[-100, -100, 3, 4, -100], [-100, 7, -100, -100, -100]])
    log_p = logits.log_softmax(-1)
    by_hand = -(log_p[0, 1, 3] + log_p[0, 2, 4] + log_p[1, 0, 7]) / 3
    torch.testing.assert_close(language_loss(logits, labels), by_hand)
    nothing = language_loss(logits, torch.full((2, 5), -100))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert float(logits.grad.abs().sum()) == 0


def test_only_positions_that_predict_an_answer_reach_the_vocabulary():
    labels = torch.tensor([[-100, -100, 3, 4, -100]])
    seen = []

    def head(states):
        seen.append(tuple(states.shape))
        return states

    _, count = answer_loss(torch.randn(1, 5, 11), labels, head)
    assert seen == [(2, 11)]
    assert int(count) == 2
