"""The rules as data: what is bad about a row, in SQL for its number, and for Great Expectations.

Both engines measure the same rule on the same facts (tasks/validate/facts.py), so that their
counts must agree.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.config import ValidateConfig
from schemas.samples import SPLITS, SUPERVISES
from schemas.taxonomy import CLEAN, Taxonomy

MANDATORY = ("sample_id", "source", "split", "risk_type", "risk_level", "supervises")
REFUSE_FROM = 2  # the lowest level at which an answer must refuse (METHOD.md: medium and high)


@dataclass(frozen=True)
class Rule:
    """`bad` is SQL over the facts; `detail` is SQL for what people read in the quarantine.

    `expect` is the class name in Great Expectations, `options` its arguments, `only` the rows it
    looks at as (column, is or is not, value). `measured` is SQL for what that expectation counts,
    where this differs from `bad` (of two duplicates one is bad, and both are not unique).
    """

    reason: str
    bad: str
    detail: str
    expect: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, bool, str] | None = None
    measured: str = ""
    action: Literal["quarantine", "clean_by_level", "concept"] = "quarantine"


def rules(config: ValidateConfig, taxonomy: Taxonomy) -> tuple[Rule, ...]:
    """All rules in order: a row goes to quarantine by the first that it breaks."""
    return (*_scalars(taxonomy), *_labels(config), *_texts(), *_sets(), _target(config))


def _scalars(taxonomy: Taxonomy) -> list[Rule]:
    nulls = [
        Rule(
            "missing_value",
            f"{c} IS NULL",
            f"'{c}'",
            "ExpectColumnValuesToNotBeNull",
            {"column": c},
        )
        for c in MANDATORY
    ]
    sets = [
        _in_set("type_not_in_taxonomy", "risk_type", taxonomy.type_ids),
        _in_set("unknown_split", "split", SPLITS),
        _in_set("unknown_supervises", "supervises", SUPERVISES),
    ]
    top = len(taxonomy.levels) - 1
    level = Rule(
        "level_out_of_range",
        f"risk_level NOT BETWEEN 0 AND {top}",
        "risk_level",
        "ExpectColumnValuesToBeBetween",
        {"column": "risk_level", "min_value": 0, "max_value": top},
    )
    return [*nulls, *sets, level]


def _in_set(reason: str, column: str, values: list[str] | tuple[str, ...]) -> Rule:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return Rule(
        reason,
        f"{column} NOT IN ({quoted})",
        column,
        "ExpectColumnValuesToBeInSet",
        {"column": column, "value_set": list(values)},
    )


def _labels(config: ValidateConfig) -> list[Rule]:
    reject = config.type_with_level_zero == "reject"
    return [
        Rule(
            "clean_with_level",
            f"risk_type = '{CLEAN}' AND risk_level <> 0",
            "risk_level",
            "ExpectColumnValuesToBeInSet",
            {"column": "risk_level", "value_set": [0]},
            only=("risk_type", True, CLEAN),
        ),
        Rule(
            "type_with_level_zero",
            f"risk_type IS DISTINCT FROM '{CLEAN}' AND risk_level = 0",
            "risk_type",
            "ExpectColumnValuesToNotBeInSet",
            {"column": "risk_level", "value_set": [0]},
            only=("risk_type", False, CLEAN),
            action="quarantine" if reject else "clean_by_level",
        ),
    ]


def _texts() -> list[Rule]:
    return [
        Rule(
            "empty_question",
            "question_chars = 0",
            "'no text in a user turn'",
            "ExpectColumnValuesToBeBetween",
            {"column": "question_chars", "min_value": 1},
        ),
        Rule(
            "empty_answer",
            "supervises = 'both' AND answer_chars = 0",
            "'no text in an assistant turn'",
            "ExpectColumnValuesToBeBetween",
            {"column": "answer_chars", "min_value": 1},
            only=("supervises", True, "both"),
        ),
    ]


def _sets() -> list[Rule]:
    unique = [
        Rule(
            "duplicate_sample",
            f"{column}_copy > 1",
            f"'same {column} as ' || {column}_first",
            "ExpectColumnValuesToBeUnique",
            {"column": column},
            measured=f"{column}_copies > 1",
        )
        for column in ("sample_id", "content_id")
    ]
    shared = Rule("image_in_two_splits", "image_rank > split_rank", "split")
    # Training and evaluation look at one image: a row with more is set aside, not cut.
    several = Rule("several_images", "images > 1", "images || ' images, and one is supported'")
    return [*unique, shared, several]


def _target(config: ValidateConfig) -> Rule:
    reject = config.unsafe_target == "reject"
    return Rule(
        "unsafe_target",
        f"split = 'train' AND supervises = 'both' AND risk_level >= {REFUSE_FROM} AND NOT refuses",
        "'level ' || risk_level || ', and the answer does not refuse'",
        action="quarantine" if reject else "concept",
    )
