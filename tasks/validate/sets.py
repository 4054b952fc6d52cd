"""What rows have to do with each other: copies, groups in several splits, contradicting labels.

Each statement looks first for the keys that matter, which are few, and only then at rows.
"""

from typing import TYPE_CHECKING

from schemas.config import ValidateConfig
from schemas.taxonomy import CLEAN
from tasks.validate.rule import Rule

if TYPE_CHECKING:
    import duckdb

KEYS = ("sample_id", "content_id")
APART = 2  # levels of one type that differ by less are a matter of taste

# Of rows with one key the copy for the least seen split comes first, then by the row's identity.
COPIES = """
CREATE TABLE {key}_copies AS
SELECT position, {key}, count(*) OVER own AS {key}_copies,
    row_number() OVER (own ORDER BY split_rank DESC, sample_id, source, source_key, position)
        AS {key}_copy,
    first_value(source_key) OVER
        (own ORDER BY split_rank DESC, sample_id, source, source_key, position) AS {key}_first
FROM own_facts SEMI JOIN
    (SELECT {key} FROM own_facts GROUP BY {key} HAVING count(*) > 1) USING ({key})
WINDOW own AS (PARTITION BY {key})
"""
# Text alone forms no group with its copies: there the whole content is the link to a test item.
SPANS = """
CREATE TABLE spans AS
WITH links AS (
    SELECT position, 'group' AS link, group_id AS key FROM own_facts
    UNION ALL SELECT position, 'content', content_id FROM content_id_copies
), facts AS (
    SELECT position, split_rank, {'source': source, 'key': source_key} AS item FROM own_facts
), keys AS (
    SELECT link, key, max(split_rank) AS top, min(item) FILTER (split_rank = 2) AS first_test,
        max(item) FILTER (split_rank = 2) AS last_test
    FROM links JOIN facts USING (position) WHERE key IS NOT NULL
    GROUP BY link, key HAVING min(split_rank) < max(split_rank)
)
SELECT position, max(top) FILTER (link = 'group') AS group_rank,
    min(CASE WHEN first_test.source <> item.source THEN first_test
        WHEN last_test.source <> item.source THEN last_test END) AS test_item
FROM links JOIN keys USING (link, key) JOIN facts USING (position)
WHERE split_rank < top GROUP BY position
"""
# A policy (LlavaGuard) is part of the question: under another one the same image may be another.
CLASHES = """
CREATE TABLE clashes AS
WITH judged AS (
    SELECT position, group_id, policy, risk_level,
        CASE WHEN risk_level = 0 THEN '{clean}' ELSE risk_type END AS risk_type
    FROM own_facts WHERE {sound}
), groups AS (
    SELECT group_id, policy FROM judged GROUP BY group_id, policy
    HAVING min(risk_type) < max(risk_type) OR max(risk_level) - min(risk_level) >= {apart}
), told AS (
    SELECT group_id, policy, string_agg(DISTINCT risk_type, ', ' ORDER BY risk_type) AS types,
        min(risk_level) AS low, max(risk_level) AS high, count(*) AS members
    FROM judged SEMI JOIN groups USING (group_id, policy) GROUP BY group_id, policy
)
SELECT position, members || ' rows of one image group are ' || types || ', of levels ' || low
    || ' to ' || high || CASE WHEN policy = '' THEN '' ELSE ', under policy ' || policy END AS clash
FROM judged JOIN told USING (group_id, policy)
"""
FACTS = """
CREATE VIEW facts AS
SELECT own_facts.*, coalesce(group_rank, split_rank) AS group_rank, test_item, clash,
    coalesce(sample_id_copies, 1) AS sample_id_copies, coalesce(sample_id_copy, 1)
        AS sample_id_copy, sample_id_first,
    coalesce(content_id_copies, 1) AS content_id_copies, coalesce(content_id_copy, 1)
        AS content_id_copy, content_id_first
FROM own_facts LEFT JOIN spans USING (position) LEFT JOIN clashes USING (position)
    LEFT JOIN (SELECT * EXCLUDE sample_id FROM sample_id_copies) USING (position)
    LEFT JOIN (SELECT * EXCLUDE content_id FROM content_id_copies) USING (position)
"""


def relate(con: "duckdb.DuckDBPyConnection", *, sound: str) -> None:
    """`own_facts` -> the view `facts`, which says also what a row shares with others.

    Args:
        con: holds `own_facts`.
        sound: SQL for rows whose labels can be compared.
    """
    for key in KEYS:
        con.execute(COPIES.format(key=key))
    con.execute(SPANS)
    con.execute(CLASHES.format(clean=CLEAN, sound=sound, apart=APART))
    con.execute(FACTS)


def sets() -> list[Rule]:
    """Rules on what rows share; a copy of a foreign test item is told as such, not as a copy."""
    foreign = Rule(
        "contamination",
        "test_item IS NOT NULL",
        "'test item of ' || test_item.source || ': ' || test_item.key",
        policy="contamination",
    )
    unique = [
        Rule(
            "duplicate_sample",
            f"{key}_copy > 1",
            f"'same {key} as ' || {key}_first",
            "unique",
            "ExpectColumnValuesToBeUnique",
            {"column": key},
            measured=f"{key}_copies > 1",
        )
        for key in KEYS
    ]
    shared = Rule("image_in_two_splits", "group_rank > split_rank", "split")
    return [foreign, *unique, shared]


def conflict(config: ValidateConfig) -> Rule:
    """Labels of one image group that contradict each other."""
    reject = config.label_conflict == "reject"
    return Rule(
        "label_conflict",
        "clash IS NOT NULL",
        "clash",
        action="quarantine" if reject else "report",
        policy="label_conflict",
    )
