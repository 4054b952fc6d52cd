"""Formats that need no code: which columns of a table-like file hold what, as TOML."""

from functools import lru_cache
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from schemas.errors import ConfigError
from schemas.explain import explain
from schemas.frozen import Frozen
from schemas.shipped import read_toml, shipped


class AnswerRule(Frozen):
    """The answer counts only where `column` holds one of `words`; else the row has none."""

    column: str
    words: tuple[str, ...] = Field(alias="is", min_length=1)


class Format(Frozen):
    """A data set as a table: its columns and constants by field, and where the facts come from.

    `labels` is its mapping by default, `note` says in a line what it is, `origin` who says so.
    `slices` names columns too: group -> column. Whatever a source itself states goes first.
    """

    version: int
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    reader: Literal["table", "hf-parquet", "webdataset", "img2dataset"]
    labels: str
    note: str
    example: str
    origin: str = "ours"
    licence: str = ""
    evaluation_only: bool = False
    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    slices: dict[str, str] = {}
    answer_when: AnswerRule | None = None

    @field_validator("columns", mode="before")
    @classmethod
    def _lists_are_joined(cls, value: object) -> object:
        """`type = ["a", "b"]` is `a+b`, as on the command line."""
        if not isinstance(value, dict):
            return value
        return {k: "+".join(map(str, v)) if isinstance(v, list) else v for k, v in value.items()}


@lru_cache
def load_format(name: str) -> Format:
    """A format by shipped name (`spa-vl`, ...), or one's own TOML by path; else ConfigError."""
    raw = read_toml(name, folder="formats", what="format")
    try:
        return Format.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"format {name!r}: {explain(error.errors(), Format)}") from error


def format_file(name: str) -> Format | None:
    """The file of a format; None for a format that is read by code of its own."""
    return load_format(name) if name.endswith(".toml") or name in shipped("formats") else None
