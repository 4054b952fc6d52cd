"""Label mappings: the words that sources use, as types and levels of the taxonomy, as TOML."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

from pydantic import ValidationError, model_validator

from schemas.errors import ConfigError, DataError
from schemas.explain import explain
from schemas.frozen import Frozen
from schemas.shipped import read_toml
from schemas.taxonomy import CLEAN, Taxonomy

ANY_REST = " / *"
T = TypeVar("T")


class LabelTarget(Frozen):
    """What a source's word means here: a type and, unless the row states one, a level."""

    type: str
    level: int | None = None
    origin: str = "ours"


class LabelMapping(Frozen):
    """A source's vocabulary -> the taxonomy. Every word that occurs must be listed.

    Words of several columns are joined by " / "; an entry `Safe / *` stands for all words that
    begin so, unless one is listed itself. Rows whose word is `unplaced` have no type in the
    taxonomy: they are rejected with the reason given there.
    """

    version: int
    name: str
    labels: dict[str, LabelTarget]
    levels: dict[str, int] = {}
    unplaced: dict[str, str] = {}

    @model_validator(mode="after")
    def _entries_are_plain(self) -> "LabelMapping":
        """A bare `*` would call every misspelt word something."""
        wrong = [w for w in (*self.labels, *self.unplaced) if "*" in w.removesuffix(ANY_REST)]
        twice = sorted(set(self.labels) & set(self.unplaced))
        if wrong or twice:
            fault = f"{twice[0]!r} is under both" if twice else f"{wrong[0]!r}: * only after ' / '"
            raise ValueError(f"labels and unplaced: {fault}")
        return self


@lru_cache
def load_mapping(name: str) -> LabelMapping:
    """A label mapping by shipped name (`vlguard`, `canonical`, ...) or TOML path."""
    raw = read_toml(name, folder="mappings", what="label mapping")
    try:
        return LabelMapping.model_validate(raw)
    except ValidationError as error:
        told = explain(error.errors(), LabelMapping)
        raise ConfigError(f"label mapping {name!r}: {told}") from error


def listed(label: str, entries: Mapping[str, T]) -> T | None:
    """The entry of a word: its own, else the longest `... / *` that the word begins with."""
    heads = [e for e in entries if e.endswith(ANY_REST) and label.startswith(e[:-1])]
    return entries.get(label, entries[max(heads, key=len)] if heads else None)


def check_mapping(mapping: LabelMapping, taxonomy: Taxonomy) -> None:
    """ConfigError for a level that the taxonomy does not have, or a clean word above level 0."""
    top = len(taxonomy.levels) - 1
    levels = {word: target.level for word, target in mapping.labels.items()} | mapping.levels
    for word, level in levels.items():
        if level is not None and not 0 <= level <= top:
            raise ConfigError(
                f"mapping '{mapping.name}': {word!r} has level {level}, and taxonomy "
                f"'{taxonomy.name}' has levels 0 to {top}; correct the mapping"
            )
    for word, target in mapping.labels.items():
        if target.type == CLEAN and target.level:
            raise ConfigError(
                f"mapping '{mapping.name}': {word!r} is clean with level {target.level}; clean is "
                "level 0"
            )


def map_label(
    label: str | None, level: str | None, *, mapping: LabelMapping, taxonomy: Taxonomy, where: str
) -> tuple[str, int]:
    """A source's words -> (type id, level number).

    Raises:
        DataError: a word that the mapping does not list; it names place and value. A label that
            is missing is unknown too: nothing is guessed to be clean.
    """
    target = listed(label, mapping.labels) if label is not None else None
    if target is None and mapping.name == "canonical" and label in taxonomy.type_ids:
        target = LabelTarget(type=label, level=0 if label == CLEAN else None)
    if target is None:
        raise DataError(
            f"{where}: unknown label {label!r:.200}; known to mapping '{mapping.name}': "
            f"{', '.join(map(repr, sorted(mapping.labels) or taxonomy.type_ids))}. Correct the "
            "row, or name by labels= a mapping file (.toml) that lists it"
        )
    if target.type not in taxonomy.type_ids:
        raise ConfigError(
            f"mapping '{mapping.name}' sends {label!r} to {target.type!r}, "
            f"which is not in taxonomy '{taxonomy.name}' {taxonomy.type_ids}"
        )
    return target.type, _level_number(level, target, mapping, taxonomy, where)


def _level_number(
    level: str | None, target: LabelTarget, mapping: LabelMapping, taxonomy: Taxonomy, where: str
) -> int:
    if level is None or level == "":
        if target.level is None:
            raise DataError(
                f"{where}: type {target.type!r} without a level, and mapping '{mapping.name}' "
                "has no default for it; give the row a level, or the mapping a default"
            )
        return target.level
    names = {lv.id: i for i, lv in enumerate(taxonomy.levels)}
    numbers = {str(i): i for i in range(len(taxonomy.levels))}
    known = {**numbers, **names, **mapping.levels}
    if level not in known:
        raise DataError(
            f"{where}: unknown risk level {level!r:.200}; known: {', '.join(sorted(known))}. "
            "Correct the row, or add the word to the mapping's [levels]"
        )
    return known[level]
