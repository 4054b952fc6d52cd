"""A recipe: published data sets by risk type, and what `psavlm plan --recipe` tells of them."""

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from schemas.config import Count, SourceConfig
from schemas.errors import ConfigError
from schemas.explain import did_you_mean, explain
from schemas.frozen import Frozen
from schemas.taxonomy import load_taxonomy

Words = Annotated[str, Field(min_length=1)]


class Access(StrEnum):
    """How one comes by a data set: by a click more or less, by its makers' favour, or never."""

    PUBLIC = "public"
    AGREEMENT = "agreement"
    APPLICATION = "application"
    CLOSED = "closed"

    @property
    def open(self) -> bool:
        """Whether anybody can have it, be it after accepting terms."""
        return self in (Access.PUBLIC, Access.AGREEMENT)


class Status(StrEnum):
    """A copy is here, or some of it; or it could be, being public; or it is not public."""

    HAVE = "have"
    PART = "part"
    MISSING = "missing"
    CLOSED = "closed"


class RecipeSet(Frozen):
    """One data set: where it comes from and on which terms; `uri` and `images` are one's own copy.

    Without `format` no reader of ours takes it as it is published, and `note` says why. `labels`
    and `split` are those of a source.
    """

    title: Words
    access: Access
    where: Words
    licence: Words
    format: str = ""
    labels: str = ""
    split: Literal["train", "calibration", "test"] | None = None
    needs_images: bool = False
    uri: str = ""
    images: str = ""
    note: str = ""


class RecipePart(Frozen):
    """What a set gives to a risk type: `papers` items in the papers, `train` in its train split.

    `labels` are the set's words that mean this type; none stands for the whole set.
    """

    set: str
    name: Words
    papers: Count
    train: Count | None = None
    labels: tuple[str, ...] = ()
    note: str = ""


class RecipeType(Frozen):
    """A risk type: the papers drew `sampled` items from its parts."""

    type: str
    sampled: Count
    parts: tuple[RecipePart, ...] = Field(min_length=1)


class Recipe(Frozen):
    """A recipe file."""

    version: Literal[1]
    name: Words
    origin: Words
    taxonomy: str = "taxonomy"
    sets: dict[str, RecipeSet]
    types: tuple[RecipeType, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _parts_name_sets_and_types_differ(self) -> "Recipe":
        used = {part.set for kind in self.types for part in kind.parts}
        if lost := sorted(used - self.sets.keys()):
            hint = did_you_mean(lost[0], self.sets)
            raise ValueError(f"no set {lost[0]!r}; {hint}sets: {', '.join(self.sets)}")
        if idle := sorted(self.sets.keys() - used):
            raise ValueError(f"set {idle[0]!r} is part of no type: name it, or take it out")
        ids = [kind.type for kind in self.types]
        if len(set(ids)) < len(ids):
            raise ValueError(f"types {ids} must be distinct")
        return self


class RecipeLine(Frozen):
    """One part, and what is here of it.

    `found` items of its labels were read in the copy, None where there is none or no reader.
    `problem` says why a given copy does not count.
    """

    type: str
    name: str
    set: str
    status: Status
    access: Access
    papers: int
    train: int | None
    found: int | None
    format: str
    licence: str
    where: str
    note: str
    problem: str


class RecipeTotal(Frozen):
    """A risk type: what the papers sampled, and how much they sampled from, by status."""

    type: str
    sampled: int
    have: int
    part: int
    missing: int
    closed: int
    found: int


class RecipePlan(Frozen):
    """A whole recipe; `sources` are what is here and readable, as a run takes it."""

    recipe: str
    origin: str
    lines: tuple[RecipeLine, ...]
    types: tuple[RecipeTotal, ...]
    sources: tuple[SourceConfig, ...]
    notes: dict[str, str]


def load_recipe(path: str) -> Recipe:
    """A recipe by the path of its TOML file.

    Raises:
        ConfigError: no such file, no TOML, wrong or unknown keys, or a type without taxonomy.
    """
    try:
        recipe = Recipe.model_validate(_read(path))
    except ValidationError as error:
        raise ConfigError(f"recipe {path!r}: {explain(error.errors(), Recipe)}") from error
    known = load_taxonomy(recipe.taxonomy).type_ids
    for kind in recipe.types:
        if kind.type not in known:
            raise ConfigError(
                f"recipe {path!r}: type {kind.type!r} is not in taxonomy {recipe.taxonomy!r}; "
                f"{did_you_mean(kind.type, known)}types: {', '.join(known)}"
            )
    return recipe


def _read(path: str) -> dict[str, Any]:
    if not path.endswith(".toml"):
        raise ConfigError(
            f"recipe {path!r} is no .toml file: give a path such as recipes/psa-vlm-public.toml"
        )
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"recipe {path!r} cannot be read: {error.strerror}; correct the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path!r} is not valid TOML: {error}; correct it") from error
