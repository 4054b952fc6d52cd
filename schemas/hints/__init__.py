"""The hints: what the language model is told about an image that the guard has flagged."""

from string import Formatter

from pydantic import field_validator

from schemas.errors import ConfigError
from schemas.frozen import Frozen
from schemas.shipped import read_toml
from schemas.taxonomy import Taxonomy

FIELDS = {"type", "meaning"}


class Hints(Frozen):
    """Level -> template, and texts of their own for single types: type -> level -> text."""

    version: int
    name: str
    templates: dict[int, str]
    texts: dict[str, dict[int, str]] = {}

    @field_validator("templates", "texts")
    @classmethod
    def _only_known_fields(cls, value: dict[str, object]) -> dict[str, object]:
        for text in _all_texts(value):
            unknown = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
            if unknown - FIELDS:
                raise ValueError(f"{text!r} uses {sorted(unknown - FIELDS)}; known: {FIELDS}")
        return value

    def text_for(self, type_id: str, level: int, *, taxonomy: Taxonomy) -> str:
        """The hint of one risk type and level (1 or higher).

        Raises:
            ConfigError: no template for this level.
        """
        template = self.texts.get(type_id, {}).get(level) or self.templates.get(level)
        if template is None:
            raise ConfigError(
                f"hints '{self.name}' have no text for level {level}; add it under [templates] "
                f"(levels there: {sorted(self.templates)})"
            )
        meanings = {risk.id: risk.meaning for risk in taxonomy.types}
        return template.format(type=type_id, meaning=meanings[type_id])


def load_hints(name: str, *, taxonomy: Taxonomy) -> Hints:
    """Shipped hints by name, or one's own TOML by path, checked against a taxonomy.

    Raises:
        ConfigError: malformed, or a risk level of the taxonomy without a text.
    """
    raw = read_toml(name, folder="hints", what="hints")
    try:
        hints = Hints.model_validate(raw)
    except ValueError as error:
        raise ConfigError(f"hints {name!r} are wrong: {error}") from error
    for risk in taxonomy.types[: taxonomy.clean_index]:
        for level in range(1, len(taxonomy.levels)):
            hints.text_for(risk.id, level, taxonomy=taxonomy)
    return hints


def _all_texts(value: dict[str, object]) -> list[str]:
    texts: list[str] = []
    for entry in value.values():
        texts += _all_texts(entry) if isinstance(entry, dict) else [str(entry)]
    return texts
