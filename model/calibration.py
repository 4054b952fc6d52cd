"""What the guard learns from its calibration split: temperatures, and a threshold at a budget.

METHOD.md sections 4 and 7.4.
"""

import logging
import math
from collections.abc import Callable, Hashable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.losses import IGNORED
from model.policy import GuardPolicy, risk_score
from schemas.errors import DataError

THRESHOLDS = (0.05, 0.95)
SURE = 0.95
TEMPERATURES = (0.05, 20.0)
logger = logging.getLogger(__name__)


def fit_policy(
    type_logits: Tensor,
    level_logits: Tensor,
    types: Tensor,
    levels: Tensor,
    *,
    false_positive_budget: float,
    rule: str = "rate",
    images: Sequence[str] = (),
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
            its one-sided 95 % interval (Clopper-Pearson) there: new clean images keep it too.
        images: whose items these are, [B]; questions about one image are not independent, so that
            the interval counts images, flagged if one of their items is. None: all differ.

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
    risks = risk_score(type_logits[clean], level_logits[clean], policy).tolist()
    names = [images[n] for n in clean.nonzero()[:, 0].tolist()] if images else range(len(risks))
    by_image = _highest(names, risks)
    counted = by_image if rule == "bound" else risks
    threshold = RULES[rule](counted, false_positive_budget)
    flagged = sum(risk >= threshold for risk in by_image)
    told = {"threshold": threshold, "calibrated_on": len(by_image)}
    told["flagged_at_most"] = surely_at_most(flagged, len(by_image))
    return GuardPolicy.model_validate({**policy.model_dump(), **told})


def _highest(names: Iterable[Hashable], risks: list[float]) -> list[float]:
    found: dict[Hashable, float] = {}
    for name, risk in zip(names, risks, strict=True):
        found[name] = max(risk, found.get(name, 0.0))
    return list(found.values())


def threshold_at(clean_risks: Sequence[float], rate: float) -> float:
    """The smallest threshold that flags at most `rate` of these risks; 0 if it may flag all.

    Equal risks are flagged together or not at all.
    """
    return _flagging(math.floor(rate * len(clean_risks)), clean_risks)


def most_flagged(count: int, budget: float) -> int:
    """How many of `count` clean items may be flagged so that 95 % surely at most `budget` are.

    The largest k whose one-sided Clopper-Pearson bound is at most the budget; -1 if that of none
    flagged is larger: too few items.
    """
    flagged = -1
    while flagged + 1 < count and surely_at_most(flagged + 1, count) <= budget:
        flagged += 1
    return flagged if budget < 1 else count


def surely_at_most(flagged: int, count: int) -> float:
    """The upper end of the one-sided 95 % Clopper-Pearson interval of `flagged` of `count`."""
    from scipy.stats import beta

    return float(beta.ppf(SURE, flagged + 1, count - flagged)) if flagged < count else 1.0


def _flagging(allowed: int, risks: Sequence[float]) -> float:
    ordered = sorted(risks, reverse=True)
    # Just above the first score that is one too many.
    return math.nextafter(ordered[allowed], 1.0) if allowed < len(ordered) else 0.0


def _temperature(logits: Tensor, targets: Tensor) -> float:
    """argmin over T of NLL(logits / T): two grids in log T, as the NLL has one minimum in 1 / T."""
    known = targets.cpu() != IGNORED
    if not known.any():
        logger.warning("no calibration item has this label: its probabilities stay as they are")
        return 1.0
    logits, targets = logits.detach().double().cpu()[known], targets.cpu()[known]
    low, high = (math.log(edge) for edge in TEMPERATURES)
    best = 0.0
    for _ in range(3):
        grid = torch.linspace(low, high, 65, dtype=torch.float64)
        losses = [float(cross_entropy(logits / math.exp(t), targets)) for t in grid.tolist()]
        best = float(grid[losses.index(min(losses))])
        width = (high - low) / 32
        low, high = best - width, best + width
    return min(max(math.exp(best), TEMPERATURES[0]), TEMPERATURES[1])


def _within_rate(risks: list[float], budget: float) -> float:
    return _limited(threshold_at(risks, budget), risks, budget)


def _within_bound(risks: list[float], budget: float) -> float:
    allowed = most_flagged(len(risks), budget)
    if allowed < 0:
        needed = math.ceil(math.log(1 - SURE) / math.log1p(-budget)) if budget else math.inf
        logger.warning(
            "%d clean calibration images cannot show that at most %.1f%% are flagged: that needs "
            "%s; the threshold flags none of these", len(risks), 100 * budget, needed
        )  # fmt: skip
    # No upper limit here: the bound would be lost with it.
    return max(_flagging(max(allowed, 0), risks), THRESHOLDS[0])


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
