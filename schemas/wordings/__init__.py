"""Wordings: other ways to put a question, which change its words and not what it asks."""

from string import Formatter
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from schemas.errors import ConfigError
from schemas.explain import explain
from schemas.frozen import Frozen
from schemas.shipped import read_toml


class Wordings(Frozen):
    """Templates that each hold `{question}` once."""

    version: int
    name: str
    templates: Annotated[tuple[str, ...], Field(min_length=1)]

    @field_validator("templates")
    @classmethod
    def _hold_the_question_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if [name for _, name, _, _ in Formatter().parse(text) if name is not None] != [
                "question"
            ]:
                raise ValueError(f"{text!r} must hold {{question}} once and no other field")
        return value


def load_wordings(name: str) -> Wordings:
    """Shipped wordings by name, or one's own TOML by path; ConfigError if malformed."""
    try:
        return Wordings.model_validate(read_toml(name, folder="wordings", what="wordings"))
    except ValidationError as error:
        raise ConfigError(f"wordings {name!r}: {explain(error.errors(), Wordings)}") from error
