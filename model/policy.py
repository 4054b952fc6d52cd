"""From logits to a verdict: one calibrated risk score, a threshold, an action.

The release acts only when both heads agree, so that either alone switches it off; here both enter
one score, and its threshold is set at a stated false-positive budget (METHOD.md sections 4, 7.4).
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.losses import IGNORED
from schemas.errors import ConfigError, DataError
from schemas.frozen import Frozen
from schemas.policies import ACTIONS, Action, OperatorPolicy, usual_action
from schemas.taxonomy import CLEAN, Taxonomy

THRESHOLDS = (0.05, 0.95)
SURE = 0.95
TEMPERATURES = (0.05, 20.0)
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
logger = logging.getLogger(__name__)


class GuardPolicy(Frozen):
    """When the guard acts, and how: what was calibrated, and what an operator decides.

    `disabled`: types that pass. `actions`: by level, where they are not the usual ones.
    """

    temperature_type: Temperature = 1.0
    temperature_level: Temperature = 1.0
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    disabled: tuple[str, ...] = ()
    actions: dict[int, Action] = {}

    def operated(self, by: OperatorPolicy) -> "GuardPolicy":
        """The same calibration under an operator's policy."""
        told = {"disabled": by.disabled, "actions": by.actions}
        return GuardPolicy.model_validate({**self.model_dump(), **told})

    def action_at(self, level: int) -> Action:
        """What follows from a risk of this level."""
        return self.actions.get(level, usual_action(level))


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
    that type is disabled, or the level's action is to answer, the image passes.
    """
    risks = risk_score(type_logits, level_logits, policy).tolist()
    types, levels = _probabilities(type_logits, level_logits, policy)
    return [
        _verdict(risk, row_types, row_levels, policy=policy, taxonomy=taxonomy)
        for risk, row_types, row_levels in zip(risks, types.tolist(), levels.tolist(), strict=True)
    ]


def forced(
    type_id: str, level: int, *, taxonomy: Taxonomy, policy: GuardPolicy | None = None
) -> Verdict:
    """The verdict of a concept that is given, not seen: oracle labels and interventions.

    A forced type is acted on even where the policy disables it; its actions are the policy's.

    Raises:
        ConfigError: no such type or level in the taxonomy.
    """
    if type_id not in taxonomy.type_ids or not 0 <= level < len(taxonomy.levels):
        raise ConfigError(
            f"concept {type_id!r} of level {level} is not in taxonomy '{taxonomy.name}'; types: "
            f"{', '.join(taxonomy.type_ids)}; levels: 0 to {len(taxonomy.levels) - 1}"
        )
    action = (policy or GuardPolicy()).action_at(level)
    flagged = type_id != CLEAN and level > 0 and action != ACTIONS[0]
    return Verdict(
        flagged=flagged,
        risk=float(flagged),
        type=type_id,
        level=level,
        action=action if flagged else ACTIONS[0],
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
    rule: str = "rate",
) -> GuardPolicy:
    """Temperatures and threshold from a calibration split, never from test items.

    Temperatures minimise the negative log-likelihood over the items that have a label. One
    threshold on one risk score holds the budget for all types together. It is the smallest in
    [0.05, 0.95] that keeps the budget; if even 0.95 flags more, it stays there with a warning.

    Args:
        type_logits: [B, K].
        level_logits: [B, L].
        types: class numbers [B]; items without a type (-100) are left out.
        levels: the same for levels.
        false_positive_budget: share of clean items that may be flagged.
        rule: `rate` keeps the share of these items in the budget; `bound` keeps the upper end of
            its one-sided 95 % interval (Clopper-Pearson) there: new clean items keep it too.

    Raises:
        DataError: no clean item to set a threshold on.
    """
    policy = GuardPolicy(
        temperature_type=_temperature(type_logits, types),
        temperature_level=_temperature(level_logits, levels),
    )
    clean = types.to(type_logits.device) == type_logits.shape[1] - 1
    if not clean.any():
        raise DataError(
            f"none of {len(types)} calibration items is clean: no threshold can be set. "
            "Give the calibration split clean rows (ingest.calibration)"
        )
    risks = risk_score(type_logits[clean], level_logits[clean], policy)
    threshold = RULES[rule](risks.tolist(), false_positive_budget)
    return GuardPolicy.model_validate({**policy.model_dump(), "threshold": threshold})


def threshold_at(clean_risks: Sequence[float], rate: float) -> float:
    """The smallest threshold that flags at most `rate` of these risks; 0 if it may flag all.

    Equal risks are flagged together or not at all.
    """
    return _flagging(math.floor(rate * len(clean_risks)), clean_risks)


def most_flagged(count: int, budget: float) -> int:
    """How many of `count` clean items may be flagged so that 95 % surely at most `budget` are.

    The largest k whose one-sided Clopper-Pearson bound, the 0.95 quantile of Beta(k + 1, count -
    k), is at most the budget; -1 if that of none flagged is larger: too few items.
    """
    from scipy.stats import beta

    flagged = -1
    while flagged + 1 < count and beta.ppf(SURE, flagged + 2, count - flagged - 1) <= budget:
        flagged += 1
    return flagged if budget < 1 else count


def _flagging(allowed: int, risks: Sequence[float]) -> float:
    ordered = sorted(risks, reverse=True)
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
    action = policy.action_at(level)
    allowed = ids[named] in policy.disabled or action == ACTIONS[0]
    flagged = risk >= policy.threshold and not allowed
    return Verdict(
        flagged=flagged,
        risk=risk,
        type=ids[named] if flagged else CLEAN,
        level=level if flagged else 0,
        action=action if flagged else ACTIONS[0],
        type_probs=dict(zip(ids, types, strict=True)),
        level_probs={lv.id: p for lv, p in zip(taxonomy.levels, levels, strict=True)},
    )


def _temperature(logits: Tensor, targets: Tensor) -> float:
    """argmin over T of NLL(logits / T): two grids in log T, as the NLL has one minimum in 1 / T."""
    known = targets.cpu() != IGNORED
    logits, targets = logits.detach().double().cpu()[known], targets.cpu()[known]
    low, high = (math.log(edge) for edge in TEMPERATURES)
    best = 0.0
    for _ in range(3):
        grid = torch.linspace(low, high, 65, dtype=torch.float64)
        losses = [float(cross_entropy(logits / math.exp(t), targets)) for t in grid.tolist()]
        best = float(grid[losses.index(min(losses))])
        width = (high - low) / 32
        low, high = best - width, best + width
    return math.exp(best)


def _within_rate(risks: list[float], budget: float) -> float:
    return _limited(threshold_at(risks, budget), risks, budget)


def _within_bound(risks: list[float], budget: float) -> float:
    allowed = most_flagged(len(risks), budget)
    if allowed < 0:
        needed = math.ceil(math.log(1 - SURE) / math.log1p(-budget)) if budget else math.inf
        logger.warning(
            "%d clean calibration items cannot show that at most %.1f%% are flagged: that needs "
            "%s; the threshold flags none of these", len(risks), 100 * budget, needed
        )  # fmt: skip
    return _limited(_flagging(max(allowed, 0), risks), risks, budget)


def _limited(threshold: float, risks: list[float], budget: float) -> float:
    low, high = THRESHOLDS
    threshold = min(max(threshold, low), high)
    rate = sum(risk >= threshold for risk in risks) / len(risks)
    if rate > budget:
        logger.warning("threshold %.2f flags %.1f%% of clean items, budget %.1f%%",
                       threshold, 100 * rate, 100 * budget)  # fmt: skip
    return threshold


# How a threshold keeps its budget, by `MethodConfig.threshold`.
RULES: dict[str, Callable[[list[float], float], float]] = {
    "rate": _within_rate,
    "bound": _within_bound,
}
