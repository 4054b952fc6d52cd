"""The taxonomy is data: risk types and levels, as TOML."""

from functools import lru_cache

from pydantic import ValidationError, model_validator

from schemas.errors import ConfigError
from schemas.explain import explain
from schemas.frozen import Frozen
from schemas.shipped import read_toml

CLEAN = "clean"


class RiskType(Frozen):
    """One risk type: `id` is its name in data and answers, `meaning` is for people."""

    id: str
    meaning: str


class RiskLevel(Frozen):
    """One risk level; its number is its place in the list (0 is safe)."""

    id: str
    meaning: str


class Taxonomy(Frozen):
    """Ordered types (clean last) and levels (0 = safe first): the classes of the two heads."""

    version: int
    name: str
    types: tuple[RiskType, ...]
    levels: tuple[RiskLevel, ...]

    @model_validator(mode="after")
    def _clean_is_last_and_names_differ(self) -> "Taxonomy":
        ids = self.type_ids
        if ids[-1:] != [CLEAN] or len(set(ids)) != len(ids) or len(self.levels) < 2:
            raise ValueError(
                f"types {ids} must be distinct and end with '{CLEAN}', with two levels or more"
            )
        return self

    @property
    def type_ids(self) -> list[str]:
        """Names of the types in logit order."""
        return [t.id for t in self.types]

    @property
    def clean_index(self) -> int:
        """Logit index of `clean`."""
        return len(self.types) - 1


@lru_cache
def load_taxonomy(name: str = "taxonomy") -> Taxonomy:
    """The default taxonomy, or one's own TOML by path."""
    raw = read_toml(name, folder=None, what="taxonomy")
    try:
        return Taxonomy.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"taxonomy {name!r}: {explain(error.errors(), Taxonomy)}") from error
