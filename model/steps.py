"""One optimiser step, and what makes it repeatable: rate, clipping, seed, and when to stop."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.shards import apart, clip_gradients
from schemas.config import PartConfig
from schemas.errors import TrainingError


@dataclass(frozen=True)
class StepReport:
    """What a step did: its loss, the gradient norm before clipping, the learning rate."""

    loss: float
    gradient_norm: float
    rate: float


def new_optimizer(parameters: Sequence[nn.Parameter], part: PartConfig) -> torch.optim.AdamW:
    """AdamW over one part's parameters, fused on a GPU; the rate is set anew by every step."""
    # Elsewhere torch's own choice: its fused kernel on the CPU rounds otherwise.
    fused = True if all(p.is_cuda for p in parameters) else None
    groups = [{"params": group} for group in apart(parameters)]
    return torch.optim.AdamW(groups, lr=part.lr, weight_decay=part.weight_decay, fused=fused)


def learning_rate(step: int, part: PartConfig) -> float:
    """Linear warm-up to `part.lr`, then linear decay; `step` counts from 0, no step has rate 0."""
    if step < part.warmup_steps:
        return part.lr * (step + 1) / part.warmup_steps
    return part.lr * (part.steps - step) / max(1, part.steps - part.warmup_steps)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch for one step of one worker, so that a resumed run draws the same dropout."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))


def train_step(
    loss: Tensor, optimizer: torch.optim.Optimizer, *, step: int, part: PartConfig
) -> StepReport:
    """Backward and one optimiser step; for one process, or where backward averages by itself."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    return apply_gradients(float(loss.detach()), optimizer, step=step, part=part)


def apply_gradients(
    loss: float,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    part: PartConfig,
    blame: Callable[[], str] = lambda: "look at this step's rows in the order plan",
) -> StepReport:
    """Clips this part's gradients and steps; for workers that average gradients themselves.

    Args:
        loss: the step's.
        optimizer: over one part's parameters, whose gradients are there.
        step: from 0.
        part: its clipping and learning rate.
        blame: names the items, where the loss or the gradient is not finite.

    Raises:
        TrainingError: the loss or the gradient is not finite; no parameter was changed.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = clip_gradients(parameters, part.clip_norm)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingError(
            f"step {step}: loss {loss}, gradient norm {norm}; stopped before the optimiser step: "
            f"lower the part's lr, or {blame()}"
        )
    rate = learning_rate(step, part)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return StepReport(loss=loss, gradient_norm=norm, rate=rate)
