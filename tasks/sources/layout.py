"""Which column of a table holds what: the source's own words over those of its format's file."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from schemas.config import SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.explain import did_you_mean
from schemas.formats import AnswerRule, format_file
from schemas.mapping import LabelMapping, load_mapping

FIELDS = ("question", "answer", "image", "type", "level", "split", "id", "language")
SLICE = "slices."
# How alike a column's name and a field's must be to be taken for a slip of the pen.
NEARLY = 0.75
# Where a folder of images is of use only with a column that names them.
PATHS = ("table",)
MOST_COLUMNS = 10_000
SHOWN = 100
# Fields that may lie in several columns: `a+b` for one value, `a|b` for several labels.
SEVERAL = {"type": re.compile(r"[+|]"), "image": re.compile(r"[+]")}


@dataclass(frozen=True)
class Layout:
    """Columns and constants by field, slices as `slices.<name>`; "" means no such column.

    `stated` are the fields that the source or its format file names itself: they must be there.
    """

    columns: Mapping[str, str]
    constants: Mapping[str, str]
    stated: frozenset[str]
    mapping: LabelMapping
    answer_when: AnswerRule | None = None

    @property
    def label_free(self) -> bool:
        """Whether the mapping has a type for rows without a label (a source declared clean)."""
        return "" in self.mapping.labels

    # Every row asks for these: they are worked out once.
    @cached_property
    def needed(self) -> list[str]:
        """Columns that every row must have."""
        fields = ["question"] if self.label_free else ["question", "type"]
        return [c for f in fields for c in self.names(f)]

    @property
    def wanted(self) -> frozenset[str]:
        """All columns that a field, a slice or a rule looks at, also those that may be missing."""
        rule = [self.answer_when.column] if self.answer_when else []
        return frozenset([*rule, *(c for f in self.columns for c in self.names(f))])

    @cached_property
    def used(self) -> frozenset[str]:
        """The columns that a field or a slice of a record holds."""
        return frozenset(c for f in self.columns if f != "id" for c in self.names(f))

    @cached_property
    def slices(self) -> list[str]:
        """Names of the slices, without the prefix."""
        given = [*self.columns, *self.constants]
        return sorted({f.removeprefix(SLICE) for f in given if f.startswith(SLICE)})

    def names(self, field: str) -> list[str]:
        """The columns of a field: none, one, or those joined by `+` or `|`."""
        column = self.columns.get(field, "")
        if not column or field in self.constants:
            return []
        return SEVERAL[field].split(column) if field in SEVERAL else [column]

    def check(self, found: Collection[str], place: str) -> None:
        """DataError if a column that must be there is not, or is twice, or there are too many."""
        if len(found) > MOST_COLUMNS:
            raise DataError(
                f"{place}: {len(found)} columns, and at most {MOST_COLUMNS} are read; leave out "
                "those that are not needed"
            )
        twice = [c for c in sorted(self.wanted) if list(found).count(c) > 1]
        if twice:
            raise DataError(f"{place}: column {twice[0]!r} is there twice; rename or remove one")
        stated = [c for f in sorted(self.stated) for c in self.names(f)]
        if self.answer_when and self.names("answer"):
            stated.append(self.answer_when.column)
        missing = [c for c in (*self.needed, *stated) if c not in found]
        if missing:
            raise DataError(
                f"{place}: column {missing[0]!r} is missing; found {_shown(found)}. Name another "
                "with columns.<field>=<column> (nothing after = if there is none), or give one "
                f"value to all rows with constants.<field>=; fields: {', '.join(FIELDS)}"
            )
        self._check_spelling(found, place)

    def _check_spelling(self, found: Collection[str], place: str) -> None:
        """DataError for a strange column whose name is nearly that of an absent field."""
        used = {column for field in self.columns for column in self.names(field)}
        strange = sorted(set(found) - used)
        for field in ("answer", "image", "level", "split"):
            absent = self.columns.get(field) == field and field not in {*found, *self.constants}
            if absent and (near := get_close_matches(field, strange, n=1, cutoff=NEARLY)):
                raise DataError(
                    f"{place}: there is no column {field!r}; is {near[0]!r} meant? Then correct "
                    f"it, or say columns.{field}={near[0]}; if not, columns.{field}= with nothing "
                    "after it"
                )


def layout(
    source: SourceConfig, default_labels: str, *, usual: Mapping[str, str] | None = None
) -> Layout:
    """The columns of a source: its own, else those of its format's file, else `usual`, else alike.

    Raises:
        ConfigError: a field that does not exist, or that is both a column and a constant.
    """
    both = sorted(set(source.columns) & set(source.constants))
    if both:
        raise ConfigError(f"{both[0]!r} is given as columns.{both[0]} and as constants.{both[0]}")
    form = format_file(source.format)
    _check_fields("columns", source.columns, allowed=FIELDS)
    _check_fields("constants", source.constants, allowed=[f for f in FIELDS if f != "image"])
    stated, constants = dict(source.columns), dict(source.constants)
    if source.images and source.format in PATHS and "image" not in stated:
        stated["image"] = (form.columns if form else {}).get("image", "image")
    if form:
        _check_fields("columns", form.columns, allowed=FIELDS)
        _check_fields("constants", form.constants, allowed=[f for f in FIELDS if f != "image"])
        named = {**form.columns, **{f"{SLICE}{k}": v for k, v in form.slices.items()}}
        stated = {**{f: c for f, c in named.items() if f not in constants}, **stated}
        constants = {**{f: c for f, c in form.constants.items() if f not in stated}, **constants}
    return Layout(
        columns={f: f for f in FIELDS} | dict(usual or {}) | stated,
        constants=constants,
        stated=frozenset(stated),
        mapping=load_mapping(source.labels or (form.labels if form else default_labels)),
        answer_when=form.answer_when if form else None,
    )


def _shown(found: Collection[str]) -> str:
    return f"{sorted(found)[:SHOWN]!r:.2000}"


def _check_fields(scope: str, given: Collection[str], *, allowed: Collection[str]) -> None:
    unknown = sorted(f for f in given if f not in allowed and not re.match(r"slices\.\w", f))
    if unknown:
        raise ConfigError(
            f"{scope}.{unknown[0]}: no such field; {did_you_mean(unknown[0], allowed)}fields: "
            f"{', '.join(allowed)}, slices.<name>"
        )
