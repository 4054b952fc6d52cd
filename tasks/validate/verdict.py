"""The verdict: what was found, what was decided on it, and what the snapshot consists of."""

from typing import TYPE_CHECKING, Any

from schemas.config import ValidateConfig
from schemas.licence import load_licences
from schemas.samples import SUPERVISES
from tasks.validate.rule import Rule
from tasks.validate.totals import (
    CONTAMINATION,
    LABELS,
    SEVERAL,
    counted,
    licences,
    records,
)

if TYPE_CHECKING:
    import duckdb

VERDICT, CONFLICTS = "verdict.json", "conflicts.parquet"
GROUPS = """
SELECT count(DISTINCT (group_id, policy)) AS groups FROM own_facts JOIN clashes USING (position)
"""


def verdict(
    con: "duckdb.DuckDBPyConnection",
    config: ValidateConfig,
    *,
    rules: tuple[Rule, ...],
    found: list[int],
) -> dict[str, Any]:
    """What `verdict.json` says beside success and sources.

    rules (what each found), policies (the choice made for rows in question, and how many those
    are), teaches (rows by `supervises`), labels (rows by split, type and level), several_images
    (rows by split that today's models do not take), contamination (by source and the test items'
    source), conflicts (rows and groups), licences, counts.

    Args:
        con: holds the facts and verdicts.
        config: the policies.
        rules: in order of precedence.
        found: how many rows break each.
    """
    counts = counted(con, rules)
    (groups,) = records(con, GROUPS)
    return {
        "rules": [_told(rule, n) for rule, n in zip(rules, found, strict=True)],
        "policies": {
            rule.policy: {"choice": getattr(config, rule.policy), "rows": n}
            for rule, n in zip(rules, found, strict=True)
            if rule.policy
        },
        "teaches": {word: counts[f"supervises_{word}"] for word in SUPERVISES},
        "labels": records(con, LABELS),
        "several_images": records(con, SEVERAL),
        "contamination": records(con, CONTAMINATION),
        "conflicts": {"rows": counts["conflicts"], **groups},
        "licences": licences(con, load_licences(config.licences)),
        "counts": counts,
    }


def _told(rule: Rule, found: int) -> dict[str, Any]:
    decided = {"policy": rule.policy} if rule.policy else {}
    told = {"reason": rule.reason, "checks": rule.expect, "action": rule.action, "found": found}
    return {**told, **decided, **rule.options}
