"""The safety modules of PSA-VLM: projector, tokens, head (METHOD.md section 2).

They live outside the Hugging Face class and keep their own float32 weights. Which variant of each
part: `MethodConfig`; the parts themselves: projectors.py, heads.py, and the tokens here. Letters: B
batch, P patches, V vision width, D language width, T text, S safety tokens, K types, L levels.

Unlike the paper, LayerNorms stand before the MLP projector, queries and keys: encoder features,
token embeddings (std about 0.02) and safety tokens differ in scale by two orders, and without the
norms the attention starts flat. The paper's release reads one text position, ours the mean of all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.heads import HEADS
from model.projectors import PROJECTORS, Views, project_rows, project_views
from schemas.config import MethodConfig

TOKEN_STD = 0.02


class SafetyTokens(nn.Module):
    """Two independent sets [S, D] from N(0, 0.02): `s_head` for the head, `s_llm` for the LLM.

    A set that the method does not have is None. With `llm_tokens = "concept"` (METHOD.md section
    7.5) there are also `by_type` [K, S, D] and `by_level` [L, S, D], and the LLM is given
    s_llm + sum_k p_k E_k over the probabilities of types and levels; otherwise s_llm as it is.
    """

    def __init__(
        self, method: MethodConfig, dim: int, *, types: int, levels: int, for_head: bool
    ) -> None:
        super().__init__()
        count, kind = method.tokens, method.llm_tokens
        self.s_head = _drawn(count, dim) if for_head else None
        self.s_llm = _drawn(count, dim) if kind != "none" else None
        self.by_type = _drawn(types, count, dim) if kind == "concept" else None
        self.by_level = _drawn(levels, count, dim) if kind == "concept" else None

    @property
    def static(self) -> Tensor | None:
        """The tokens [S, D] that stand before every image; None for other kinds."""
        return self.s_llm if self.by_type is None else None

    def told(self, types: Tensor, levels: Tensor) -> Tensor:
        """The concept's tokens [..., S, D] of probabilities [..., K] and [..., L].

        The probabilities are detached: the head learns nothing from the answers, which keeps the
        two losses of stage 1 apart (METHOD.md section 3).
        """
        assert self.s_llm is not None and self.by_type is not None and self.by_level is not None
        p_types, p_levels = types.detach().to(self.s_llm), levels.detach().to(self.s_llm)
        of_type = torch.tensordot(p_types, self.by_type, dims=1)
        return self.s_llm + of_type + torch.tensordot(p_levels, self.by_level, dims=1)

    def for_llm(self) -> list[nn.Parameter]:
        """What the language loss trains."""
        parts = (self.s_llm, self.by_type, self.by_level)
        return [part for part in parts if part is not None]


class SafetyModules(nn.Module):
    """Projector, tokens and head of one model: all that stage 1 trains.

    `reads_projected`: the head is given h_i [B, P, D] instead of h_o (projector `none`). A method
    without a head has no projector either.

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
        kind = HEADS.get(method.head)
        self.reads_projected = method.projector == "none"
        self.projector = (
            PROJECTORS[method.projector](method, vision_dim=vision_dim, llm_dim=llm_dim)
            if kind
            else None
        )
        for_head = bool(kind) and kind.has_tokens  # type: ignore[union-attr]
        self.tokens = SafetyTokens(method, llm_dim, types=types, levels=levels, for_head=for_head)
        self.head = kind(method, llm_dim, types=types, levels=levels) if kind else None

    def concept_logits(
        self,
        features: Tensor,
        text: Tensor,
        mask: Tensor,
        *,
        real: Tensor | None = None,
        views: Sequence[Views | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Type logits [B, K] and level logits [B, L].

        Args:
            features: h_o [B, P, V]; h_i of width D where `reads_projected`.
            text: h_text [B, T, D].
            mask: [B, T], True at real positions.
            real: [B, P], True at real patches, which come first; None if all are.
            views: the grids of each image's real patches, view by view; None for squares.
        """
        assert self.head is not None
        keys, real_keys = self.keys(features, real=real, views=views)
        return self.head(keys, text, mask, real_keys=real_keys)

    def keys(
        self,
        features: Tensor,
        *,
        real: Tensor | None = None,
        views: Sequence[Views | None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """[s_head; h_s] [B, S + P', D] and which keys are real [B, S + P'], None if all are."""
        assert self.projector is not None and self.head is not None
        views = views or [None] * len(features)
        if real is None and len(set(views)) == 1:
            h_s, real_keys = project_views(self.projector, features, views[0]), None
        else:
            counts = [features.shape[1]] * len(features) if real is None else real.sum(1).tolist()
            rows = [row[:count] for row, count in zip(features, counts, strict=True)]
            h_s, real_keys = project_rows(self.projector, rows, views)
        norm: Any = self.head.norm
        h_s, s_head = h_s.to(norm.weight), self.tokens.s_head
        if s_head is None:
            return h_s, real_keys
        if real_keys is not None:
            always = real_keys.new_ones(len(real_keys), len(s_head))
            real_keys = torch.cat([always, real_keys], dim=1)
        return torch.cat([s_head.expand(len(h_s), -1, -1), h_s], dim=1), real_keys


def _drawn(*shape: int) -> nn.Parameter:
    return nn.Parameter(TOKEN_STD * torch.randn(*shape))
