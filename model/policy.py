"""From logits to a verdict: one calibrated risk score, a threshold, an action.

The release acts only when both heads agree, so that either alone switches it off; here both enter
one score, and its threshold is set at a stated false-positive budget (METHOD.md sections 4, 7.4).
"""

import logging
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from schemas.errors import DataError
from schemas.frozen import Frozen
from schemas.taxonomy import CLEAN, Taxonomy

ACTIONS = ("answer", "caution", "may_refuse", "refuse")
THRESHOLDS = (0.05, 0.95)
TEMPERATURES = (0.05, 20.0)
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
logger = logging.getLogger(__name__)


class GuardPolicy(Frozen):
    """When the guard acts. `disabled`: types that an operator lets pass."""

    temperature_type: Temperature = 1.0
    temperature_level: Temperature = 1.0
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    disabled: tuple[str, ...] = ()


class Verdict(Frozen):
    """What the guard saw in one image and what follows; probabilities are calibrated, by id."""

    flagged: bool
    risk: float
    type: str
    level: int
    action: str
    type_probs: dict[str, float]
    level_probs: dict[str, float]


def risk_score(type_logits: Tensor, level_logits: Tensor, policy: GuardPolicy) -> Tensor:
    """Mean of 1 - p(clean) and 1 - p(level 0) after temperature, [B] in 0..1, float64.

    Args:
        type_logits: [B, K], clean last.
        level_logits: [B, L], level 0 first.
        policy: its temperatures count.
    """
    types, levels = _probabilities(type_logits, level_logits, policy)
    return 1 - (types[:, -1] + levels[:, 0]) / 2


def decide(
    type_logits: Tensor, level_logits: Tensor, *, policy: GuardPolicy, taxonomy: Taxonomy
) -> list[Verdict]:
    """One verdict per row of the logits [B, K] and [B, L].

    A flagged image is given its most probable risk type and its most probable level above 0. If
    that type is disabled, the image passes: what an operator allows is not held back by its level.
    """
    risks = risk_score(type_logits, level_logits, policy).tolist()
    types, levels = _probabilities(type_logits, level_logits, policy)
    return [
        _verdict(risk, row_types, row_levels, policy=policy, taxonomy=taxonomy)
        for risk, row_types, row_levels in zip(risks, types.tolist(), levels.tolist(), strict=True)
    ]


def forced(type_id: str, level: int, *, taxonomy: Taxonomy) -> Verdict:
    """The verdict of a concept that is given, not seen: oracle labels and interventions."""
    flagged = type_id != CLEAN and level > 0
    return Verdict(
        flagged=flagged,
        risk=float(flagged),
        type=type_id,
        level=level,
        action=_action(level) if flagged else ACTIONS[0],
        type_probs={name: float(name == type_id) for name in taxonomy.type_ids},
        level_probs={lv.id: float(i == level) for i, lv in enumerate(taxonomy.levels)},
    )


def fit_policy(
    type_logits: Tensor,
    level_logits: Tensor,
    types: Tensor,
    levels: Tensor,
    *,
    false_positive_budget: float,
    disabled: tuple[str, ...] = (),
) -> GuardPolicy:
    """Temperatures and threshold from a calibration split, never from test items.

    Temperatures minimise the negative log-likelihood; the threshold is the smallest in
    [0.05, 0.95] that flags at most `false_positive_budget` of the clean items. If even 0.95 flags
    more, it stays at 0.95 with a warning.

    Raises:
        DataError: no clean item to set a threshold on.
    """
    policy = GuardPolicy(
        temperature_type=_temperature(type_logits, types),
        temperature_level=_temperature(level_logits, levels),
        disabled=disabled,
    )
    clean = types.to(type_logits.device) == type_logits.shape[1] - 1
    if not clean.any():
        raise DataError(
            f"none of {len(types)} calibration items is clean: no threshold can be set. "
            "Give the calibration split clean rows (ingest.calibration)"
        )
    risks = risk_score(type_logits[clean], level_logits[clean], policy)
    threshold = _threshold(risks, false_positive_budget)
    return GuardPolicy.model_validate({**policy.model_dump(), "threshold": threshold})


def threshold_at(clean_risks: Sequence[float], rate: float) -> float:
    """The smallest threshold that flags at most `rate` of these risks; 0 if it may flag all.

    Equal risks are flagged together or not at all.
    """
    ordered = sorted(clean_risks, reverse=True)
    allowed = math.floor(rate * len(ordered))
    # Just above the first score that is one too many.
    return math.nextafter(ordered[allowed], 1.0) if allowed < len(ordered) else 0.0


def _probabilities(
    type_logits: Tensor, level_logits: Tensor, policy: GuardPolicy
) -> tuple[Tensor, Tensor]:
    # float64: a threshold is set between two scores that may be 1e-7 apart.
    types = (type_logits.detach().double() / policy.temperature_type).softmax(-1)
    levels = (level_logits.detach().double() / policy.temperature_level).softmax(-1)
    return types, levels


def _verdict(
    risk: float,
    types: Sequence[float],
    levels: Sequence[float],
    *,
    policy: GuardPolicy,
    taxonomy: Taxonomy,
) -> Verdict:
    ids = taxonomy.type_ids
    named = max(range(taxonomy.clean_index), key=types.__getitem__)
    level = max(range(1, len(levels)), key=levels.__getitem__)
    flagged = risk >= policy.threshold and ids[named] not in policy.disabled
    return Verdict(
        flagged=flagged,
        risk=risk,
        type=ids[named] if flagged else CLEAN,
        level=level if flagged else 0,
        action=_action(level) if flagged else ACTIONS[0],
        type_probs=dict(zip(ids, types, strict=True)),
        level_probs={lv.id: p for lv, p in zip(taxonomy.levels, levels, strict=True)},
    )


def _action(level: int) -> str:
    # A taxonomy with more levels refuses from the third on.
    return ACTIONS[min(level, len(ACTIONS) - 1)]


def _temperature(logits: Tensor, targets: Tensor) -> float:
    """argmin over T of NLL(logits / T): two grids in log T, as the NLL has one minimum in 1 / T."""
    logits, targets = logits.detach().double().cpu(), targets.cpu()
    low, high = (math.log(edge) for edge in TEMPERATURES)
    best = 0.0
    for _ in range(3):
        grid = torch.linspace(low, high, 65, dtype=torch.float64)
        losses = [float(cross_entropy(logits / math.exp(t), targets)) for t in grid.tolist()]
        best = float(grid[losses.index(min(losses))])
        width = (high - low) / 32
        low, high = best - width, best + width
    return math.exp(best)


def _threshold(clean_risks: Tensor, budget: float) -> float:
    risks: list[float] = clean_risks.tolist()
    low, high = THRESHOLDS
    threshold = min(max(threshold_at(risks, budget), low), high)
    rate = sum(risk >= threshold for risk in risks) / len(risks)
    if rate > budget:
        logger.warning("threshold %.2f flags %.1f%% of clean items, budget %.1f%%",
                       threshold, 100 * rate, 100 * budget)  # fmt: skip
    return threshold
