"""The rules as data: what is bad about a row, in SQL for its number, and for Great Expectations.

Both engines measure the same rule on the same facts (tasks/validate/facts.py), so that their
counts must agree. Rules on sets of rows (duplicates, groups, splits) are in sets.py.
"""

from collections.abc import Iterable

from schemas.config import ValidateConfig
from schemas.samples import SPLITS, SUPERVISES
from schemas.taxonomy import CLEAN, Taxonomy
from tasks.validate.rule import Rule
from tasks.validate.sets import conflict, sets

MANDATORY = ("sample_id", "source", "split", "risk_type", "risk_level", "supervises", "group_id")
TARGET = "unsafe_target"
REFUSE_FROM = 2  # the lowest level at which an answer must refuse (METHOD.md: medium and high)


def rules(config: ValidateConfig, taxonomy: Taxonomy) -> tuple[Rule, ...]:
    """All rules in order: a row goes to quarantine by the first that it breaks."""
    own = (*_scalars(taxonomy), *_labels(config), *_texts())
    return (*own, *sets(), _target(config), conflict(config))


def sound(order: Iterable[Rule]) -> str:
    """SQL: the row by itself is in order and its label can be compared with those of others."""
    own = [r for r in order if r.suite in ("vocabulary", "cross_column") and r.reason != TARGET]
    faults = (f"coalesce({r.bad}, false)" for r in own if r.action == "quarantine")
    return f"NOT ({' OR '.join(faults)})"


def _scalars(taxonomy: Taxonomy) -> list[Rule]:
    nulls = [
        Rule(
            "missing_value",
            f"{c} IS NULL",
            f"'{c}'",
            "vocabulary",
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
        "vocabulary",
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
        "vocabulary",
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
            "cross_column",
            "ExpectColumnValuesToBeInSet",
            {"column": "risk_level", "value_set": [0]},
            only=(("risk_type", "==", CLEAN),),
        ),
        Rule(
            "type_with_level_zero",
            f"risk_type IS DISTINCT FROM '{CLEAN}' AND risk_level = 0",
            "risk_type",
            "cross_column",
            "ExpectColumnValuesToNotBeInSet",
            {"column": "risk_level", "value_set": [0]},
            only=(("risk_type", "!=", CLEAN),),
            action="quarantine" if reject else "clean_by_level",
            policy="type_with_level_zero",
        ),
    ]


def _texts() -> list[Rule]:
    return [
        Rule(
            "empty_question",
            "question_chars = 0",
            "'no text in a user turn'",
            "vocabulary",
            "ExpectColumnValuesToBeBetween",
            {"column": "question_chars", "min_value": 1},
        ),
        Rule(
            "empty_answer",
            "supervises = 'both' AND answer_chars = 0",
            "'no text in an assistant turn'",
            "cross_column",
            "ExpectColumnValuesToBeBetween",
            {"column": "answer_chars", "min_value": 1},
            only=(("supervises", "==", "both"),),
        ),
    ]


def _target(config: ValidateConfig) -> Rule:
    reject = config.unsafe_target == "reject"
    return Rule(
        TARGET,
        f"split = 'train' AND supervises = 'both' AND risk_level >= {REFUSE_FROM} AND NOT refuses",
        "'level ' || risk_level || ', and the answer does not refuse'",
        "cross_column",
        "ExpectColumnValuesToBeInSet",
        {"column": "refuses", "value_set": [True]},
        only=(
            ("split", "==", "train"),
            ("supervises", "==", "both"),
            ("risk_level", ">=", REFUSE_FROM),
        ),
        action="quarantine" if reject else "concept",
        policy=TARGET,
    )
