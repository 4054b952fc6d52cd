"""What trains when: stage -> part -> parameters (METHOD.md section 3); all else is frozen."""

import logging
import re

from torch import nn

from schemas.config import Stage
from schemas.errors import ConfigError

# Stage 1 has two parts because its two losses share no parameter (METHOD.md section 3): `concept`
# needs no language model, `tokens` only passes through it; `joint` takes both losses at every step,
# as the papers do. Stage 2 has one of its parts. `full` is
# SafeVLM's: language model and projector, the encoder frozen. Here the embedding table stays frozen
# too, because the safety head is asked with it and would hear another question than it has learnt.
TRAINS: dict[Stage, dict[str, str]] = {
    Stage.CONCEPTS: {
        "concept": r"safety\.(projector|head)\..*|safety\.tokens\.s_head",
        "tokens": r"safety\.tokens\.(s_llm|by_type|by_level)",
        "joint": r"safety\..*",
    },
    Stage.ALIGNMENT: {
        "lora": r"backbone\..*\.lora_[AB]\..*",
        "full": (
            r"backbone\.(.*\.)?(language_model\.(layers|norm)|multi_modal_projector|visual\.merger"
            r"|lm_head)\..*"
        ),
    },
}
logger = logging.getLogger(__name__)


def trained_by(model: nn.Module, stage: Stage, part: str) -> dict[str, nn.Parameter]:
    """The parameters of one part of a stage by name, in the model's order.

    Raises:
        ConfigError: a part that the stage does not have.
    """
    parts = TRAINS[stage]
    if part not in parts:
        raise ConfigError(f"stage {stage.value!r} has no part {part!r}; it has {sorted(parts)}")
    pattern = re.compile(parts[part])
    return {name: p for name, p in model.named_parameters() if pattern.fullmatch(name)}


def freeze_for(model: nn.Module, stage: Stage, part: str) -> list[str]:
    """Sets `requires_grad` of every parameter for one part of a stage; returns what trains, logged.

    Raises:
        ConfigError: a part that the stage does not have, or one with nothing to train.
    """
    trained = list(trained_by(model, stage, part))
    chosen = set(trained)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    if not trained:
        raise ConfigError(
            f"part {part!r} of {stage.value!r} has nothing to train in this model: leave it out "
            "of the stage's parts, or choose a method that has it (for `lora`, call add_lora first)"
        )
    logger.info("%s/%s trains %d parameters: %s", stage.value, part, len(trained), trained)
    return trained
