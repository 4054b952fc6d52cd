"""Every choice of a part: its shapes, its size on LLaVA-1.5, and that its settings reach it."""

from itertools import product

import pytest
import torch

from model.attention import of_modules
from model.heads import HEADS, QUERIES
from model.losses import concept_loss
from model.projectors import PROJECTORS, CAbstractor, RegBlock, project_rows
from model.safety import SafetyModules
from schemas.config import MethodConfig
from schemas.errors import ConfigError

torch.set_num_threads(1)
B, V, D, T = 4, 24, 32, 5
SMALL = {"tokens": 6, "attention_heads": 4, "projector_width": 20, "projector_depth": 2}
SMALL |= {"projector_grid": 3, "head_width": 16}
PAIRS = list(product(sorted(PROJECTORS), sorted(HEADS)))
CHOICES = list(product(sorted(PROJECTORS), sorted(HEADS), sorted(QUERIES)))


def modules(**changes) -> SafetyModules:
    torch.manual_seed(0)
    method = MethodConfig(**{**SMALL, **changes})
    return SafetyModules(method, vision_dim=V, llm_dim=D, types=7, levels=4)


def given(patches: int = 16, *, width: int = V):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(B, patches, width, generator=generator)
    text = 0.02 * torch.randn(B, T, D, generator=generator)
    return features, text, torch.ones(B, T, dtype=torch.bool)


def spread(one, two) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(one, two, strict=True))


# --- every combination ---


@pytest.mark.parametrize(("projector", "head", "query"), CHOICES)
def test_every_choice_of_projector_head_and_query_trains_as_a_whole(projector, head, query):
    safety = modules(projector=projector, head=head, query=query)
    features, text, mask = given(width=D if projector == "none" else V)
    logits = safety.concept_logits(features, text, mask)
    assert [tuple(x.shape) for x in logits] == [(B, 7), (B, 4)]
    concept_loss(*logits, torch.arange(B), torch.arange(B)).backward()
    silent = [
        name
        for name, p in safety.named_parameters()
        if name != "tokens.s_llm" and (p.grad is None or not p.grad.abs().sum())
    ]
    assert silent == []
    assert (safety.tokens.s_head is None) == (head == "pooled_mlp")


@pytest.mark.parametrize(("projector", "head"), PAIRS)
def test_padding_of_text_and_of_patches_changes_nothing(projector, head):
    safety = modules(projector=projector, head=head)
    features, text, mask = given(9, width=D if projector == "none" else V)
    expected = safety.concept_logits(features, text, mask)
    wider = torch.cat([features, 7 * torch.ones(B, 7, features.shape[2])], 1)
    real = torch.arange(16).expand(B, -1) < 9
    longer = torch.cat([text, 9 * torch.ones(B, 3, D)], 1)
    more = torch.cat([mask, mask.new_zeros(B, 3)], 1)
    found = safety.concept_logits(wider, longer, more, real=real)
    assert spread(found, expected) < 1e-6


@pytest.mark.parametrize(("projector", "head"), PAIRS)
def test_images_of_other_grids_stand_beside_each_other_in_a_batch(projector, head):
    safety = modules(projector=projector, head=head)
    features, text, mask = given(16, width=D if projector == "none" else V)
    grids = [(4, 4), (3, 5), (2, 3), (4, 4)]
    counts = [high * wide for high, wide in grids]
    real = torch.arange(16).expand(B, -1) < torch.tensor(counts)[:, None]
    together = safety.concept_logits(
        features, text, mask, real=real, views=[(grid,) for grid in grids]
    )
    for row, (grid, count) in enumerate(zip(grids, counts, strict=True)):
        part = slice(row, row + 1)
        alone = safety.concept_logits(
            features[part, :count], text[part], mask[part], views=[(grid,)]
        )
        assert spread([x[part] for x in together], alone) < 1e-6


# --- c_abstractor ---


@pytest.mark.parametrize("grid", [(3, 3), (4, 4), (2, 8), (5, 3), (1, 1)])
def test_the_c_abstractor_pools_any_grid_to_its_own(grid):
    projector = modules(projector="c_abstractor").projector
    features = torch.randn(2, grid[0] * grid[1], V)
    assert projector(features, grid).shape == (2, 9, D)
    assert projector(features.bfloat16(), grid).dtype == torch.float32


def test_the_c_abstractor_sees_where_a_patch_lies_and_what_is_beside_it():
    projector = modules(projector="c_abstractor", projector_grid=4).projector
    features = torch.randn(1, 16, V)
    wide, high = projector(features, (2, 8)), projector(features, (8, 2))
    assert spread([wide], [high]) > 1e-3
    # Without a pool a change of one corner reaches its neighbours by the 3x3 convolutions, and
    # all places a little by the squeeze-excite.
    moved = features.clone()
    moved[0, 0] += 5
    change = (projector(moved) - projector(features)).abs().sum(-1).view(4, 4)
    assert change[0, 0] > change[3, 3] > 0


def test_patches_that_do_not_fill_a_grid_are_a_config_error():
    projector = modules(projector="c_abstractor").projector
    with pytest.raises(ConfigError, match=r"17 patches do not fill a grid of 4 x 4.*'mlp'"):
        projector(torch.randn(2, 17, V))


def test_a_block_keeps_its_input_by_a_shortcut_and_gates_its_channels():
    torch.manual_seed(0)
    block, seen = RegBlock(20, 20), torch.randn(2, 3, 3, 20)
    with torch.no_grad():
        block.leave[1].weight.zero_()
    torch.testing.assert_close(block(seen), torch.nn.functional.silu(seen))
    with torch.no_grad():
        block.leave[1].weight.fill_(1.0)
        before = block(seen)
        block.excite[2].bias.fill_(-30)  # every gate shut
        assert spread([block(seen)], [before]) > 1e-2
        torch.testing.assert_close(block(seen), torch.nn.functional.silu(seen))


def test_depth_width_and_grid_come_from_the_config():
    one = modules(projector="c_abstractor", projector_depth=1, projector_width=12).projector
    assert isinstance(one, CAbstractor)
    assert (len(one.before), len(one.after), one.inner.in_features, one.side) == (1, 1, 12, 3)


def test_rows_of_one_grid_are_projected_at_once():
    projector, calls = modules(projector="c_abstractor").projector, []
    projector.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    rows = [torch.randn(n, V) for n in (4, 9, 4, 4)]
    h_s, real = project_rows(projector, rows, [None] * 4)
    assert calls == [3, 1] and h_s.shape == (4, 9, D) and real.all()


# --- tokens ---


def test_static_tokens_are_the_same_whatever_is_seen_and_concept_tokens_are_not():
    static, concept = modules().tokens, modules(llm_tokens="concept", intervention="both").tokens
    assert static.static is static.s_llm and concept.static is None
    assert static.by_type is None and concept.by_type.shape == (7, 6, D)
    assert concept.by_level.shape == (4, 6, D)
    types, levels = torch.eye(7)[[2, 5]], torch.eye(4)[[1, 3]]
    told = concept.told(types, levels)
    by_hand = concept.s_llm + concept.by_type[5] + concept.by_level[3]
    torch.testing.assert_close(told[1], by_hand)
    assert told.shape == (2, 6, D) and spread([told[0]], [told[1]]) > 1e-3
    mixed = concept.told((types[:1] + types[1:]) / 2, (levels[:1] + levels[1:]) / 2)
    torch.testing.assert_close(mixed[0], told.mean(0))


def test_told_probabilities_are_detached():
    tokens = modules(llm_tokens="concept", intervention="both").tokens
    types, levels = torch.rand(2, 7, requires_grad=True), torch.rand(2, 4, requires_grad=True)
    tokens.told(types, levels).sum().backward()
    assert types.grad is None and levels.grad is None
    assert all(p.grad is not None for p in tokens.for_llm())


def test_a_method_without_head_or_tokens_has_none_of_their_parameters():
    nothing = modules(head="none", projector="none", llm_tokens="none", intervention="off")
    assert list(nothing.parameters()) == []
    tokens = modules(head="none", projector="none", intervention="off")
    assert [name for name, _ in tokens.named_parameters()] == ["tokens.s_llm"]


def test_a_pooled_head_has_no_attention_to_show():
    with pytest.raises(ConfigError, match="no attention to show.*psa-vlm"):
        of_modules(modules(head="pooled_mlp"), *given())


# --- sizes on the real models, without their memory ---

PAPER = {"projector": "c_abstractor", "tokens": 64, "attention_heads": 8}
SIZES = {"7B": 4096, "13B": 5120}


def on_meta(llm_dim: int, **changes) -> SafetyModules:
    method = MethodConfig(**{**PAPER, **changes})
    with torch.device("meta"):
        return SafetyModules(method, vision_dim=1024, llm_dim=llm_dim, types=7, levels=4)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_shapes_on_llava_are_those_of_the_papers(size):
    dim = SIZES[size]
    safety = on_meta(dim)
    with torch.device("meta"):
        features, text = torch.empty(2, 576, 1024), torch.empty(2, 9, dim)
        h_s = safety.projector(features)
        mask = torch.ones(2, 9, dtype=torch.bool)
        logits = safety.concept_logits(features, text, mask)
        keys, _ = safety.keys(features)
    assert h_s.shape == (2, 576, dim)
    assert keys.shape == (2, 64 + 576, dim)
    assert safety.tokens.s_llm.shape == safety.tokens.s_head.shape == (64, dim)
    assert [tuple(x.shape) for x in logits] == [(2, 7), (2, 4)]
    assert safety.projector.before[0].enter[0].weight.shape == (1088, 1024)
    assert safety.projector.inner.weight.shape == (dim, 1088)


def of_block(inside: int, outside: int) -> int:
    """1x1, depthwise 3x3, 1x1, each with its norm; squeeze-excite; a shortcut if widths differ."""
    squeezed, norm = inside // 4, 2 * outside
    main = inside * outside + norm + 9 * outside + norm + outside * outside + norm
    excite = outside * squeezed + squeezed + squeezed * outside + outside
    return main + excite + (0 if inside == outside else inside * outside + norm)


def of_abstractor(dim: int) -> int:
    blocks = of_block(1024, 1088) + 5 * of_block(1088, 1088)
    return blocks + (1088 * dim + dim) + (dim * dim + dim)


def test_stage_one_trains_about_108_million_parameters_on_7b():
    """METHOD.md section 2: attention 67 M, projector 40.5 M, tokens 0.5 M, 108 M together."""
    safety, dim = on_meta(4096), 4096
    assert count(safety.head.attention) == 4 * dim * dim + 4 * dim == 67_125_248
    assert count(safety.projector) == of_abstractor(dim) == 40_115_920
    assert count(safety.tokens) == 2 * 64 * dim == 524_288
    norms = 2 * 2 * dim  # ours alone, before queries and keys
    assert count(safety.head) == 67_125_248 + dim * (7 + 4) + 7 + 4 + norms
    assert count(safety) == 107_826_907
    assert count(safety) == pytest.approx(108e6, rel=0.005)


def test_stage_one_on_13b():
    dim = 5120
    attention, logits = 4 * dim * dim + 4 * dim, dim * 11 + 11
    expected = attention + logits + 4 * dim + of_abstractor(dim) + 2 * 64 * dim
    assert count(on_meta(dim)) == expected == 156_279_515


def test_the_other_choices_on_7b_have_the_sizes_that_the_docs_tell():
    told = count(on_meta(4096, llm_tokens="concept", intervention="both").tokens)
    assert told == 2 * 64 * 4096 + (7 + 4) * 64 * 4096
    guard = on_meta(4096, projector="none", head="pooled_mlp", llm_tokens="none")
    assert count(guard) == 8_417_291
