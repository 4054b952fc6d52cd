"""Safety projectors g: h_o -> h_s (METHOD.md sections 2 and 8). A new one: a class, and its name
in PROJECTORS and in `MethodConfig.projector`.

Letters: B batch, P patches, P' patches after pooling, V vision width, D language width, C the
projector's own width, H x W the patches' grid.
"""

from collections.abc import Callable, Sequence
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, silu

from schemas.config import MethodConfig
from schemas.errors import ConfigError

Grid = tuple[int, int]
Views = tuple[Grid, ...]


class SafetyProjector(nn.Module):
    """From h_o [B, P, V] to h_s [B, P', D]; P' may differ from P."""

    def forward(self, features: Tensor, grid: Grid | None = None) -> Tensor:
        """h_s of h_o.

        Args:
            features: [B, P, V] in any floating type, row by row.
            grid: (H, W) with H * W = P; None for a square.
        """
        raise NotImplementedError


class MlpProjector(SafetyProjector):
    """Two layers on every patch: [B, P, V] -> [B, P, D]."""

    def __init__(self, method: MethodConfig, *, vision_dim: int, llm_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(vision_dim)
        self.inner = nn.Linear(vision_dim, llm_dim)
        self.outer = nn.Linear(llm_dim, llm_dim)

    def forward(self, features: Tensor, grid: Grid | None = None) -> Tensor:
        """h_s [B, P, D] of h_o [B, P, V]; the grid does not matter."""
        inner = self.inner(self.norm(features.to(self.inner.weight)))
        return self.outer(silu(inner))


class CAbstractor(SafetyProjector):
    """The papers' projector: blocks, average pool to a fixed grid, blocks, two linear layers.

    METHOD.md section 2 (Honeybee's C-Abstractor); on LLaVA-1.5-7B three blocks 1024 -> 1088, pool
    24 x 24, three blocks, 1088 -> 4096 -> 4096. `projector_depth` counts the blocks on each side,
    `projector_width` is C, `projector_grid` the side of the pooled grid. No position embedding.
    """

    def __init__(self, method: MethodConfig, *, vision_dim: int, llm_dim: int) -> None:
        super().__init__()
        width, depth = method.projector_width, method.projector_depth
        self.side = method.projector_grid
        widths = [vision_dim, *[width] * depth]
        pairs = zip(widths, widths[1:], strict=False)
        self.before = nn.Sequential(*(RegBlock(inside, outside) for inside, outside in pairs))
        self.after = nn.Sequential(*(RegBlock(width, width) for _ in range(depth)))
        self.inner = nn.Linear(width, llm_dim)
        self.outer = nn.Linear(llm_dim, llm_dim)

    def forward(self, features: Tensor, grid: Grid | None = None) -> Tensor:
        """h_s [B, G * G, D] of h_o [B, P, V], G the pooled grid's side.

        Raises:
            ConfigError: the patches do not fill the grid.
        """
        high, wide = _grid_of(features, grid)
        seen_BHWC = self.before(features.to(self.inner.weight).unflatten(1, (high, wide)))
        if (high, wide) != (self.side, self.side):
            channels_first = seen_BHWC.permute(0, 3, 1, 2)
            pooled = adaptive_avg_pool2d(channels_first, (self.side, self.side))
            seen_BHWC = pooled.permute(0, 2, 3, 1)
        return self.outer(silu(self.inner(self.after(seen_BHWC).flatten(1, 2))))


class RegBlock(nn.Module):
    """One RegNet-Y bottleneck on [B, H, W, C]: 1x1, depthwise 3x3, squeeze-excite, 1x1, residual.

    Each convolution is followed by a LayerNorm over the channels of a position. A 1x1 convolution
    is a linear layer here, as channels come last. The 3x3 one is depthwise: only so does the
    projector have the size that the papers' costs imply (METHOD.md section 2).
    """

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Linear(inside, outside, bias=False), nn.LayerNorm(outside), nn.SiLU()
        )
        self.mix = nn.Conv2d(outside, outside, 3, padding=1, groups=outside, bias=False)
        self.mix_norm = nn.LayerNorm(outside)
        squeezed = max(1, inside // 4)
        self.excite = nn.Sequential(
            nn.Linear(outside, squeezed), nn.SiLU(), nn.Linear(squeezed, outside), nn.Sigmoid()
        )
        self.leave = nn.Sequential(nn.Linear(outside, outside, bias=False), nn.LayerNorm(outside))
        self.shortcut: nn.Module = nn.Identity()
        if inside != outside:
            self.shortcut = nn.Sequential(
                nn.Linear(inside, outside, bias=False), nn.LayerNorm(outside)
            )

    def forward(self, seen_BHWC: Tensor) -> Tensor:
        """[B, H, W, inside] -> [B, H, W, outside]."""
        entered = self.enter(seen_BHWC)
        mixed = self.mix(entered.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mixed = silu(self.mix_norm(mixed))
        # Squeeze-excite: the mean over all places says how much of each channel goes on.
        gated = mixed * self.excite(mixed.mean((1, 2)))[:, None, None]
        return silu(self.leave(gated) + self.shortcut(seen_BHWC))


class NoProjector(SafetyProjector):
    """The head reads h_i, what the language model itself sees: [B, P, D] as it is given."""

    def __init__(self, method: MethodConfig, *, vision_dim: int, llm_dim: int) -> None:
        super().__init__()

    def forward(self, features: Tensor, grid: Grid | None = None) -> Tensor:
        """h_i [B, P, D] itself."""
        return features


PROJECTORS: dict[str, Callable[..., SafetyProjector]] = {
    "c_abstractor": CAbstractor,
    "mlp": MlpProjector,
    "none": NoProjector,
}


def _grid_of(features: Tensor, grid: Grid | None) -> Grid:
    count = features.shape[1]
    side = isqrt(count)
    high, wide = grid or (side, side)
    if high * wide != count:
        raise ConfigError(
            f"{count} patches do not fill a grid of {high} x {wide}: projector 'c_abstractor' "
            "needs the backbone's grid; choose projector 'mlp' or a backbone that tells it"
        )
    return high, wide


def project_views(
    projector: SafetyProjector, features: Tensor, views: Views | None = None
) -> Tensor:
    """h_s [B, P', D] of h_o [B, P, V] whose patches are those of one view after the other."""
    if views is None:
        return projector(features)
    sizes = [high * wide for high, wide in views]
    parts = zip(features.split(sizes, dim=1), views, sizes, strict=True)
    return torch.cat([projector(part, grid) for part, grid, size in parts if size], dim=1)


def project_rows(
    projector: SafetyProjector, rows: Sequence[Tensor], views: Sequence[Views | None]
) -> tuple[Tensor, Tensor]:
    """h_s of images whose grids may differ, and which of its places are real.

    Args:
        projector: of one method.
        rows: h_o [P, V] of each image.
        views: the grids of each.

    Returns:
        h_s [B, P', D], shorter ones padded with zeros, and its mask [B, P'].
    """
    alike: dict[tuple[int, Views | None], list[int]] = {}
    for place, (row, own) in enumerate(zip(rows, views, strict=True)):
        alike.setdefault((len(row), own), []).append(place)
    found: dict[int, Tensor] = {}
    for (_, own), places in alike.items():
        projected = project_views(projector, torch.stack([rows[at] for at in places]), own)
        found |= dict(zip(places, projected, strict=True))
    ordered = [found[place] for place in range(len(rows))]
    ones = [torch.ones(len(row), dtype=torch.bool, device=row.device) for row in ordered]
    pad = nn.utils.rnn.pad_sequence
    return pad(ordered, batch_first=True), pad(ones, batch_first=True)
