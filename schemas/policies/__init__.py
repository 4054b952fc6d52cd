"""An operator's policy: which risk types pass, and what follows from each risk level."""

from typing import Literal

from pydantic import ValidationError

from schemas.errors import ConfigError
from schemas.explain import explain
from schemas.frozen import Frozen
from schemas.shipped import read_toml
from schemas.taxonomy import CLEAN, Taxonomy

Action = Literal["answer", "caution", "may_refuse", "refuse"]
# By level; a taxonomy with more levels refuses from the third on.
ACTIONS: tuple[Action, ...] = ("answer", "caution", "may_refuse", "refuse")


class OperatorPolicy(Frozen):
    """`disabled` types pass; `actions` by level from 1 on, the usual one where none is given."""

    version: int
    name: str
    disabled: tuple[str, ...] = ()
    actions: dict[int, Action] = {}


def usual_action(level: int) -> Action:
    """What follows from a level unless an operator says otherwise."""
    return ACTIONS[min(level, len(ACTIONS) - 1)]


def load_policy(name: str, *, taxonomy: Taxonomy) -> OperatorPolicy:
    """A shipped policy by name, or one's own TOML by path, checked against a taxonomy.

    Raises:
        ConfigError: malformed, or a type or level that the taxonomy does not have.
    """
    try:
        policy = OperatorPolicy.model_validate(read_toml(name, folder="policies", what="policy"))
    except ValidationError as error:
        raise ConfigError(f"policy {name!r}: {explain(error.errors(), OperatorPolicy)}") from error
    check_disabled(policy.disabled, taxonomy)
    top = len(taxonomy.levels) - 1
    if wrong := sorted(level for level in policy.actions if not 1 <= level <= top):
        raise ConfigError(
            f"policy {name!r}: actions for levels {wrong}, and taxonomy '{taxonomy.name}' has "
            f"levels 1 to {top} above safe; correct [actions]"
        )
    return policy


def operators_policy(name: str, *, taxonomy: Taxonomy) -> OperatorPolicy | None:
    """What `load_policy` loads, or None without a name: then the model's own policy holds."""
    return load_policy(name, taxonomy=taxonomy) if name else None


def check_disabled(disabled: tuple[str, ...], taxonomy: Taxonomy) -> None:
    """ConfigError for a disabled type that is no risk type of the taxonomy."""
    risks = [name for name in taxonomy.type_ids if name != CLEAN]
    if unknown := sorted(set(disabled) - set(risks)):
        raise ConfigError(
            f"disabled types {unknown} are not in taxonomy '{taxonomy.name}'; its risk types: "
            f"{', '.join(risks)}"
        )
