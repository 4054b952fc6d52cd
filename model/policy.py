"""From logits to a verdict: one calibrated risk score, a threshold, an action.

The release acts only when both heads agree, so that either alone switches it off; here both enter
one score, and its threshold is set at a stated false-positive budget (METHOD.md sections 4, 7.4).
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from schemas.errors import ConfigError, DataError
from schemas.frozen import Frozen
from schemas.policies import ACTIONS, Action, OperatorPolicy, usual_action
from schemas.taxonomy import CLEAN, Taxonomy

TINY = 1e-300  # so that no type at all is no division by zero
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GuardPolicy(Frozen):
    """When the guard acts, and how: what was calibrated, and what an operator decides.

    `disabled`: types that pass. `actions`: by level, where they are not the usual ones.
    `calibrated_on`: clean images that the threshold was set with; `flagged_at_most`: the upper end
    of the one-sided 95 % interval (Clopper-Pearson) of how many clean images it flags.
    """

    temperature_type: Temperature = 1.0
    temperature_level: Temperature = 1.0
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    calibrated_on: int = 0
    flagged_at_most: float | None = None
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
    # Not 1 - p(clean): near 0 that would be 0 for all, and none would be first.
    return (types[:, :-1].sum(-1) + levels[:, 1:].sum(-1)) / 2


def decide(
    type_logits: Tensor, level_logits: Tensor, *, policy: GuardPolicy, taxonomy: Taxonomy
) -> list[Verdict]:
    """One verdict per row of the logits [B, K] and [B, L].

    A flagged image is given its most probable risk type of those that are not disabled, and its
    most probable level above 0. Of the risk score only the share of these types counts, so that a
    disabled type neither flags an image nor hides another risk in it. If the level's action is to
    answer, the image passes.

    Raises:
        DataError: logits that are not finite.
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


def _probabilities(
    type_logits: Tensor, level_logits: Tensor, policy: GuardPolicy
) -> tuple[Tensor, Tensor]:
    # float64: a threshold is set between two scores that may be 1e-7 apart.
    types = (type_logits.detach().double() / policy.temperature_type).softmax(-1)
    levels = (level_logits.detach().double() / policy.temperature_level).softmax(-1)
    if not (types.isfinite().all() and levels.isfinite().all()):
        raise DataError(
            "the safety head gives logits that are not finite, which say nothing about an image: "
            "look for damaged weights or features with psavlm verify"
        )
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
    risks = range(taxonomy.clean_index)
    enabled = [number for number in risks if ids[number] not in policy.disabled]
    if len(enabled) < len(risks):
        risk *= sum(types[n] for n in enabled) / max(sum(types[n] for n in risks), TINY)
    named = max(enabled, key=types.__getitem__, default=taxonomy.clean_index)
    level = max(range(1, len(levels)), key=levels.__getitem__)
    action = policy.action_at(level)
    acts = action != ACTIONS[0] and named != taxonomy.clean_index
    flagged = risk >= policy.threshold and acts
    return Verdict(
        flagged=flagged,
        risk=risk,
        type=ids[named] if flagged else CLEAN,
        level=level if flagged else 0,
        action=action if flagged else ACTIONS[0],
        type_probs=dict(zip(ids, types, strict=True)),
        level_probs={lv.id: p for lv, p in zip(taxonomy.levels, levels, strict=True)},
    )
