"""The losses: what counts, that stage 1's are separable, and two bugs of the release not ours.

METHOD.md section 3 (joint and separate training), section 7.1 and 7.2 (the release's bugs).
"""

from itertools import product

import pytest
import torch
from torch.nn.functional import cross_entropy

from model.backbones.llava import Llava
from model.batches import question_batch
from model.losses import IGNORED, answer_loss, concept_loss, head_loss, language_loss
from model.prompts import Concept, Prompt, teach
from model.psavlm import PsaVlm
from model.tiny_llava import new_llava, new_processor, new_tokenizer
from schemas.config import BaseConfig, MethodConfig

torch.set_num_threads(1)
WORDS = ["USER: how many red shapes are there ? ASSISTANT: two red circles and a square"] * 4
SMALL = {"tokens": 4, "attention_heads": 4, "projector_width": 12, "projector_depth": 1}
SMALL |= {"projector_grid": 4, "head_width": 16}
QUESTIONS = ["how many ?", "red ?", "are there circles ?", "a square and a red circle ?"]
ANSWERS = ["two red circles", "a square", "two", "red"]
TYPES, LEVELS = torch.tensor([0, 6, 2, 5]), torch.tensor([3, 0, 1, 2])


def new_model(**changes) -> PsaVlm:
    tokenizer = new_tokenizer(WORDS)
    llava = new_llava(BaseConfig(width=32, layers=3, heads=4), tokenizer)
    backbone = Llava(llava, tokenizer, new_processor(tokenizer).image_processor)
    return PsaVlm.new(backbone, MethodConfig(**{**SMALL, **changes}), types=7, levels=4)


@pytest.fixture(scope="module")
def features():
    return torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(0))


# --- separable ---

METHODS = [
    {"projector": projector, "head": head, "llm_tokens": tokens, "intervention": show}
    for projector, head, (tokens, show) in product(
        ("mlp", "c_abstractor", "none"),
        ("cross_attention", "pooled_mlp"),
        (("static", "hint"), ("concept", "both"), ("none", "hint")),
    )
]


def gradients(model: PsaVlm, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(m.values()))
def test_joint_and_separate_stage_one_give_every_part_the_same_gradients(method, features):
    """In float64 to 1e-10. Concept tokens are told what the head sees: their p are detached."""
    torch.set_default_dtype(torch.float64)  # so that told probabilities are float64 as well
    try:
        model = new_model(**method).double()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("safety."))

        def concept() -> torch.Tensor:
            return model.concept_batch_loss(features, QUESTIONS, TYPES, LEVELS)

        def language() -> torch.Tensor:
            types, levels = (x.softmax(-1) for x in model.concept_logits(features, QUESTIONS))
            prompts = [
                Prompt(
                    teach(question, answer).messages,
                    concept=Concept(tuple(p.tolist()), tuple(q.tolist()))
                    if method["llm_tokens"] == "concept"
                    else None,
                )
                for question, answer, p, q in zip(QUESTIONS, ANSWERS, types, levels, strict=True)
            ]
            total, count = model.language_batch_sum(features, prompts)
            return total / count

        alone = gradients(model, concept())
        if method["llm_tokens"] != "none":
            spoken = gradients(model, language())
            assert set(spoken) == {
                f"safety.tokens.{name}" for name in OF_TOKENS[method["llm_tokens"]]
            }
            assert not set(spoken) & set(alone)
            alone |= spoken
        together = concept() + language() if method["llm_tokens"] != "none" else concept()
        joint = gradients(model, together)
    finally:
        torch.set_default_dtype(torch.float32)
    assert joint.keys() == alone.keys()
    assert set(joint) == {f"safety.{name}" for name, _ in model.safety.named_parameters()}
    for name, gradient in alone.items():
        assert gradient.dtype == torch.float64 and gradient.abs().max() > 0
        torch.testing.assert_close(joint[name], gradient, rtol=0, atol=1e-10)


OF_TOKENS = {"static": ["s_llm"], "concept": ["s_llm", "by_type", "by_level"]}


# --- missing labels, class weights, global normalisation ---


def logits(count: int = 6):
    generator = torch.Generator().manual_seed(2)
    kinds = torch.randn(count, 7, generator=generator), torch.randn(count, 4, generator=generator)
    return tuple(x.requires_grad_() for x in kinds)


def test_a_missing_label_counts_for_nothing_in_its_own_head_alone():
    of_type, of_level = logits()
    types, levels = torch.tensor([0, -100, 2, 3, -100, 6]), torch.tensor([1, 2, -100, 0, -100, 3])
    loss = concept_loss(of_type, of_level, types, levels, weight=1.0)
    typed, levelled = types != IGNORED, levels != IGNORED
    expected = cross_entropy(of_type[typed], types[typed])
    expected = expected + cross_entropy(of_level[levelled], levels[levelled])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert [bool(row.any()) for row in of_type.grad] == typed.tolist()
    assert [bool(row.any()) for row in of_level.grad] == levelled.tolist()


def test_a_batch_without_any_label_is_a_loss_of_zero_with_gradients_of_zero():
    of_type, of_level = logits()
    none = torch.full((6,), IGNORED)
    loss = concept_loss(of_type, of_level, none, none)
    loss.backward()
    assert float(loss.detach()) == 0 and not of_type.grad.any() and not of_level.grad.any()


@pytest.mark.parametrize("weights", [None, torch.tensor([3.0, 1, 1, 1, 1, 1, 0.25])])
def test_shares_of_workers_add_up_to_the_loss_of_the_whole_batch(weights):
    of_type, _ = logits()
    types = torch.tensor([0, -100, 2, 3, -100, 6])
    total, count = head_loss(of_type, types, weights)
    whole = cross_entropy(of_type, types, weight=weights)
    torch.testing.assert_close(total / count, whole)
    shares = [head_loss(of_type[part], types[part], weights) for part in (slice(4), slice(4, 6))]
    torch.testing.assert_close(sum(s for s, _ in shares) / sum(c for _, c in shares), whole)
    # Means of means would be something else: the workers have 3 labels and 1.
    means = [s / c for s, c in shares]
    assert abs(float((sum(means) / 2 - whole).detach())) > 1e-3


def test_class_weights_move_the_gradient_to_the_heavy_class():
    of_type, _ = logits()
    types = torch.tensor([0, 1, 1, 1, 1, 1])

    def share(weights):
        (gradient,) = torch.autograd.grad(head_loss(of_type, types, weights)[0], of_type)
        size = gradient.abs().sum(1)
        return float(size[0] / size.sum())

    heavy = torch.tensor([5.0, 1, 1, 1, 1, 1, 1])
    assert share(heavy) > 2 * share(None)


def test_rows_that_may_not_teach_language_teach_concepts_all_the_same(features):
    """`supervises` is `concept`: the label counts, the answer does not (DESIGN.md section 4)."""
    model = new_model()
    open_, shut = (
        [teach(q, a, supervised=supervised) for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
        for supervised in (True, False)
    )
    mixed = [*open_[:2], *shut[2:]]
    total, count = model.language_batch_sum(features, mixed)
    first, of_first = model.language_batch_sum(features[:2], open_[:2])
    assert int(count) == int(of_first)
    torch.testing.assert_close(total, first)
    assert int(model.language_batch_sum(features, shut)[1]) == 0


# --- the release's bugs ---


def left_padded(model: PsaVlm) -> tuple[torch.Tensor, torch.Tensor]:
    """h_text [B, T, D] and its mask, as the release batches questions: padding on the left."""
    ids, mask = question_batch(model.backbone, QUESTIONS)
    counts = mask.sum(1).tolist()
    pad = model.backbone.tokenizer.pad_token_id
    rows = [
        torch.cat([torch.full((ids.shape[1] - n,), pad), row[:n]])
        for row, n in zip(ids, counts, strict=True)
    ]
    mask = torch.stack([torch.arange(ids.shape[1]) >= ids.shape[1] - n for n in counts])
    return model.backbone.embed(torch.stack(rows)), mask


def test_position_zero_of_left_padded_text_asks_nothing_and_ours_asks_the_question(features):
    """METHOD.md section 7.1: the release's query is one constant for all padded questions."""
    model = new_model()
    text, mask = left_padded(model)
    shorter = ~mask[:, 0]
    assert shorter.sum() == 3  # all but the longest question
    # The release's way: position 0, real or not, is the query.
    first = text[:, :1]
    assert torch.equal(first[shorter], first[shorter][:1].expand(3, -1, -1))
    same = features[:1].expand(4, -1, -1)
    blind = model.safety.concept_logits(same, first, torch.ones(4, 1, dtype=torch.bool))
    assert torch.equal(blind[0][shorter], blind[0][shorter][:1].expand(3, -1))
    # Ours, on the same left-padded text and the same image: every question reads otherwise.
    heard = model.safety.concept_logits(same, text, mask)
    distance = torch.cdist(heard[0], heard[0]) + torch.eye(4)
    assert float(distance.min()) > 1e-3
    # And `first_token` reads the first real position, never the padding.
    real_first = new_model(query="first_token")
    heard = real_first.safety.concept_logits(same, text, mask)
    assert float((torch.cdist(heard[0], heard[0]) + torch.eye(4)).min()) > 1e-3


def test_only_answer_tokens_carry_a_gradient_and_the_releases_mask_would_teach_the_prompt(features):
    """METHOD.md section 7.2: the release marks prompts by an id that its loss does not know."""
    model = new_model()
    batch = model.compose(
        features,
        [teach(q, a) for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
        use_tokens=True,
        training=True,
    )
    hidden = model.backbone.hidden(batch.embeds, batch.mask, batch.positions)
    states = model.backbone.logits(hidden).detach().requires_grad_()
    language_loss(states, batch.labels).backward()
    taught = torch.zeros_like(batch.labels, dtype=torch.bool)
    taught[:, :-1] = batch.labels[:, 1:] != IGNORED  # position n predicts token n + 1
    assert torch.equal(states.grad.abs().sum(-1) > 0, taught)
    told = model.backbone.tokenizer.decode(batch.labels[0][batch.labels[0] != IGNORED])
    assert told == f" {ANSWERS[0]}</s>"
    # The release's way: another number in place of -100 is a token like any other.
    other = batch.labels.masked_fill(batch.labels == IGNORED, 3)
    states.grad = None
    total, _ = answer_loss(states, other, torch.nn.Identity())
    total.backward()
    prompt = (~taught)[:, :-1]
    assert bool((states.grad.abs().sum(-1)[:, :-1][prompt] > 0).all())
