"""From what people call a model to its artifact's address."""

from infra.registry.client import ALIASES, Registry
from schemas.errors import ConfigError


def resolve_model(name: str, *, registry: Registry | None = None) -> str:
    """The artifact's address of `champion`, `candidate`, `previous`, a version's number, or itself.

    Raises:
        ConfigError: the registry has no such model.
        StorageError: the registry cannot be reached.
    """
    if "/" in name:
        return name
    registry = registry or Registry()
    version = registry.find(name)
    if version is None:
        known = [str(v.version) for v in registry.versions()]
        pointed = [alias for alias in ALIASES if alias in registry.aliases()]
        have = ", ".join([*pointed, *known])
        told = f"it has {have}. Give one of these, or" if have else "it has nothing yet. Give"
        also = "psavlm registry shows all" if have else "psavlm run or promote puts models there"
        raise ConfigError(
            f"the registry has no model {name!r}; {told} the address root/step/fingerprint of an "
            f"artifact; {also}"
        )
    return version.uri
