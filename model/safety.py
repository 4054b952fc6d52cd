"""The safety modules of PSA-VLM: projector, tokens, head (METHOD.md section 2).

They live outside the Hugging Face class and keep their own float32 weights. Letters: B batch,
P patches, V vision width, D language width, T text, S safety tokens, K types, L levels.

Unlike the paper, LayerNorms stand before projector, queries and keys: encoder features, token
embeddings (std about 0.02) and safety tokens differ in scale by two orders, and without the norms
the attention starts flat. The paper's release reads one text position, ours the mean of all.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from schemas.config import MethodConfig
from schemas.errors import ConfigError

TOKEN_STD = 0.02


class SafetyProjector(Protocol):
    """g of METHOD.md section 2: a module from h_o [B, P, V] to h_s [B, P', D]; P' may differ."""

    def __call__(self, features: Tensor) -> Tensor:
        """h_s of h_o; features come in any floating type."""
        ...


class MlpProjector(nn.Module):
    """Two layers on every patch: [B, P, V] -> [B, P, D]."""

    def __init__(self, vision_dim: int, llm_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(vision_dim)
        self.inner = nn.Linear(vision_dim, llm_dim)
        self.outer = nn.Linear(llm_dim, llm_dim)

    def forward(self, features: Tensor) -> Tensor:
        """h_s [B, P, D] of h_o [B, P, V]; features of any floating type."""
        inner = self.inner(self.norm(features.to(self.inner.weight)))
        return self.outer(nn.functional.silu(inner))


PROJECTORS: dict[str, Callable[[int, int], SafetyProjector]] = {"mlp": MlpProjector}


class TextQuery(nn.Module):
    """Every real text position asks (ours)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, T, D] and their mask [B, T] from h_text and its mask."""
        return self.norm(text.to(self.norm.weight)), mask


class FirstTokenQuery(TextQuery):
    """Only the first real text position asks (the release's way, without its padding)."""

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


class SafetyTokens(nn.Module):
    """Two independent sets [S, D] from N(0, 0.02): `s_head` for the head, `s_llm` for the LLM.

    `s_llm` is None for the method `llm_tokens = "none"`.
    """

    def __init__(self, count: int, dim: int, *, for_llm: bool) -> None:
        super().__init__()
        self.s_head = nn.Parameter(TOKEN_STD * torch.randn(count, dim))
        self.s_llm = nn.Parameter(TOKEN_STD * torch.randn(count, dim)) if for_llm else None


class SafetyHead(nn.Module):
    """h_attn = CrossAttention(Q = query, K = V = [s_head; h_s]); logits = W_j mean(h_attn).

    Raises:
        ConfigError: the attention's heads do not divide D.
    """

    def __init__(self, dim: int, *, types: int, levels: int, heads: int, query: str) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(
                f"attention_heads {heads} does not divide the language model's width {dim}: "
                "set method.attention_heads to a divisor"
            )
        self.query = QUERIES[query](dim)
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.type_logits = nn.Linear(dim, types)
        self.level_logits = nn.Linear(dim, levels)

    def forward(
        self, keys: Tensor, text: Tensor, mask: Tensor, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Type logits [B, K] and level logits [B, L].

        Args:
            keys: [s_head; h_s], [B, S + P', D].
            text: h_text, the question's input embeddings [B, T, D].
            mask: [B, T], True at real positions; padding changes nothing.
            padding: [B, S + P'], True at keys that are none; None if all are real.
        """
        query, real = self.query(text, mask)
        keys = self.norm(keys)
        attended, _ = self.attention(
            query, keys, keys, key_padding_mask=padding, need_weights=False
        )
        weight = real.to(attended)[..., None]
        mean = (attended * weight).sum(1) / weight.sum(1)
        return self.type_logits(mean), self.level_logits(mean)


class SafetyModules(nn.Module):
    """Projector, tokens and head of one model: all that stage 1 trains.

    Args:
        method: which variant of each part.
        vision_dim: V.
        llm_dim: D.
        types: K, clean included; a taxonomy's size is all that the modules know of it.
        levels: L, level 0 included.
    """

    def __init__(
        self, method: MethodConfig, *, vision_dim: int, llm_dim: int, types: int, levels: int
    ) -> None:
        super().__init__()
        self.projector = PROJECTORS[method.projector](vision_dim, llm_dim)
        self.tokens = SafetyTokens(method.tokens, llm_dim, for_llm=method.llm_tokens != "none")
        self.head = SafetyHead(
            llm_dim,
            types=types,
            levels=levels,
            heads=method.attention_heads,
            query=method.query,
        )

    def concept_logits(
        self, features: Tensor, text: Tensor, mask: Tensor, *, real: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Type logits [B, K] and level logits [B, L] of h_o [B, P, V] and h_text [B, T, D].

        Args:
            features: h_o.
            text: h_text.
            mask: [B, T], True at real positions of the text.
            real: [B, P], True at real patches; None if all are.
        """
        h_s = self.projector(features)
        s_head = self.tokens.s_head.expand(len(h_s), -1, -1)
        padding = None
        if real is not None:
            padding = nn.functional.pad(~real, (s_head.shape[1], 0))
        return self.head(torch.cat([s_head, h_s], dim=1), text, mask, padding)
