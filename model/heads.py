"""Safety heads and their queries: from image and question to logits (METHOD.md sections 2, 8).

A new head or query: a class, and its name in HEADS or QUERIES and in `MethodConfig`. Letters: B
batch, S + P' keys (safety tokens and patches), D language width, T text, K types, L levels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from schemas.config import MethodConfig
from schemas.errors import ConfigError


class TextQuery(nn.Module):
    """Every real text position asks (ours)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, T, D] and their mask [B, T] from h_text and its mask."""
        return self.norm(text.to(self.norm.weight)), mask


class FirstTokenQuery(TextQuery):
    """Only the first real text position asks.

    The release reads position 0 of left-padded text, which is the same padding for every question
    (METHOD.md section 7.1); this is the best that one position can do.
    """

    def forward(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, 1, D] and a mask of ones [B, 1]."""
        first = mask.long().argmax(1)
        rows = torch.arange(len(text), device=text.device)
        return super().forward(text[rows, first][:, None], mask.new_ones(len(text), 1))


class ImageOnlyQuery(nn.Module):
    """One learned query, whatever the question: labels belong to the image in most sources."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, dim))

    def forward(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, 1, D] and a mask of ones [B, 1]."""
        return self.query.expand(len(text), 1, -1), mask.new_ones(len(text), 1)


QUERIES: dict[str, Callable[[int], nn.Module]] = {
    "text": TextQuery,
    "first_token": FirstTokenQuery,
    "image_only": ImageOnlyQuery,
}


class CrossAttentionHead(nn.Module):
    """The papers' head: h_attn = CrossAttention(Q = query, K = V = [s_head; h_s]), then W_j.

    One attention of width D without a residual, the mean over the real queries, one linear layer
    for types and one for levels (METHOD.md section 2).

    Raises:
        ConfigError: the attention's heads do not divide D.
    """

    # Whether safety tokens stand among the keys.
    has_tokens = True

    def __init__(self, method: MethodConfig, dim: int, *, types: int, levels: int) -> None:
        super().__init__()
        heads = method.attention_heads
        if dim % heads:
            raise ConfigError(
                f"attention_heads {heads} does not divide the language model's width {dim}: "
                "set method.attention_heads to a divisor"
            )
        self.query = QUERIES[method.query](dim)
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.type_logits = nn.Linear(dim, types)
        self.level_logits = nn.Linear(dim, levels)

    def forward(
        self, keys: Tensor, text: Tensor, mask: Tensor, *, real_keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Type logits [B, K] and level logits [B, L].

        Args:
            keys: [s_head; h_s], [B, S + P', D].
            text: h_text, the question's input embeddings [B, T, D].
            mask: [B, T], True at real positions; padding changes nothing.
            real_keys: [B, S + P'], True at real keys; None if all are.
        """
        query, real = self.query(text, mask)
        keys = self.norm(keys)
        padding = None if real_keys is None else ~real_keys
        attended, _ = self.attention(
            query, keys, keys, key_padding_mask=padding, need_weights=False
        )
        mean = _mean(attended, real)
        return self.type_logits(mean), self.level_logits(mean)


class PooledMlpHead(nn.Module):
    """A small guard like SafeLLaVA's (METHOD.md section 6): pooled image and question, one MLP.

    The mean over the patches and the mean over the query go side by side through one hidden layer
    of `head_width`. No safety tokens: in a mean they would be a constant.
    """

    has_tokens = False

    def __init__(self, method: MethodConfig, dim: int, *, types: int, levels: int) -> None:
        super().__init__()
        self.query = QUERIES[method.query](dim)
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(2 * dim, method.head_width)
        self.type_logits = nn.Linear(method.head_width, types)
        self.level_logits = nn.Linear(method.head_width, levels)

    def forward(
        self, keys: Tensor, text: Tensor, mask: Tensor, *, real_keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Type logits [B, K] and level logits [B, L]; arguments as of `CrossAttentionHead`."""
        real_keys = (
            keys.new_ones(keys.shape[:2], dtype=torch.bool) if real_keys is None else real_keys
        )
        pooled = torch.cat([_mean(self.norm(keys), real_keys), _mean(*self.query(text, mask))], 1)
        inner = nn.functional.silu(self.inner(pooled))
        return self.type_logits(inner), self.level_logits(inner)


HEADS: dict[str, Callable[..., nn.Module]] = {
    "cross_attention": CrossAttentionHead,
    "pooled_mlp": PooledMlpHead,
}


def _mean(values: Tensor, real: Tensor) -> Tensor:
    """[B, N, D] and mask [B, N] -> the mean over real positions [B, D]."""
    weight = real.to(values)[..., None]
    return (values * weight).sum(1) / weight.sum(1)
