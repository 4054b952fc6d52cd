"""Aggregates of a snapshot: by source, label, split, licence, and by what the rows may teach."""

from typing import TYPE_CHECKING, Any

from schemas.licence import LicenceList
from schemas.samples import SPLITS, SUPERVISES
from schemas.taxonomy import Taxonomy
from tasks.validate.rule import Rule

if TYPE_CHECKING:
    import duckdb

# Rows that a policy sets aside are no faults of their source.
SOURCES = """
WITH marked AS (
    SELECT source, broken IS NOT NULL AND broken NOT IN ({policies}) AS fault,
        broken IN ({policies}) AS removed
    FROM own_facts JOIN judged USING (position)
    UNION ALL SELECT source, true, false FROM rejects
)
SELECT source, count(*) AS found, count(*) FILTER (fault) AS faults,
    count(*) FILTER (removed) AS removed
FROM marked GROUP BY source ORDER BY source
"""
LABELS = """
SELECT split, risk_type, risk_level, count(*) AS rows FROM kept
GROUP BY ALL ORDER BY ALL
"""
SEVERAL = """
SELECT split, count(*) AS rows FROM kept WHERE images > 1 GROUP BY ALL ORDER BY ALL
"""
# Licences of what stays; an image counts once for each licence and source that it comes with.
LICENCES = """
WITH images AS (
    SELECT licence, source, count(*) AS images FROM (
        SELECT DISTINCT licence, kept.source, unnest(image_ids) AS image
        FROM kept JOIN (SELECT position, image_ids FROM given) USING (position))
    GROUP BY ALL
), rows AS (SELECT licence, source, count(*) AS rows FROM kept GROUP BY ALL)
SELECT licence, source, rows, coalesce(images, 0) AS images
FROM rows LEFT JOIN images USING (licence, source) ORDER BY ALL
"""
# What a policy set aside, as the step counts it.
REMOVED = {
    "unsafe_target": "unsafe_rejected",
    "type_with_level_zero": "level_zero_rejected",
    "label_conflict": "conflicts_rejected",
    "contamination": "contaminated",
}
CONTAMINATION = """
SELECT source, test_item.source AS test_source, count(*) AS rows FROM facts
WHERE test_item IS NOT NULL GROUP BY ALL ORDER BY ALL
"""


def by_source(con: "duckdb.DuckDBPyConnection", rules: tuple[Rule, ...]) -> dict[str, Any]:
    """Source -> in, rejected (faults of reading and of checking), removed by a policy, rate."""
    policies = ", ".join(["-1", *(str(i) for i, rule in enumerate(rules) if rule.policy)])
    found = con.execute(SOURCES.format(policies=policies)).fetchall()
    return {
        source: {"in": total, "rejected": bad, "removed": removed, "rate": bad / total}
        for source, total, bad, removed in found
    }


def records(con: "duckdb.DuckDBPyConnection", query: str) -> list[dict[str, Any]]:
    """The rows of a query by column name."""
    found = con.execute(query)
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def licences(con: "duckdb.DuckDBPyConnection", known: LicenceList) -> list[dict[str, Any]]:
    """Rows and images per licence and source; one without a name is told apart from the listed."""
    return [
        {
            **row,
            "named": row["licence"] != "",
            "non_commercial": known.forbids_commerce(row["licence"]),
        }
        for row in records(con, LICENCES)
    ]


def training_rows(con: "duckdb.DuckDBPyConnection", taxonomy: Taxonomy) -> dict[str, dict]:
    """Rows of the training split that can be trained on, per type and per level."""
    found = con.execute(
        "SELECT risk_type, risk_level, count(*) FROM kept WHERE split = 'train' AND images <= 1 "
        "GROUP BY ALL"
    ).fetchall()
    types = dict.fromkeys(taxonomy.type_ids, 0)
    levels = dict.fromkeys((level.id for level in taxonomy.levels), 0)
    for risk_type, level, count in found:
        types[risk_type] += count
        levels[taxonomy.levels[level].id] += count
    return {"types": types, "levels": levels}


def counted(con: "duckdb.DuckDBPyConnection", rules: tuple[Rule, ...]) -> dict[str, int]:
    """The step's counts; splits count rows of at most one image, which is what models take."""
    sums = {
        "accepted": "true",
        "concept_only": "concept",
        "clean_by_level": "clean_by_level",
        "several_images": "images > 1",
        "text_only": "images = 0",
        **{f"supervises_{word}": f"supervises = '{word}'" for word in SUPERVISES},
    }
    for split in SPLITS:
        for side, sign in (("unsafe", ">"), ("clean", "=")):
            sums[f"{split}_{side}"] = f"images <= 1 AND split = '{split}' AND risk_level {sign} 0"
    asked = ", ".join(f"count(*) FILTER ({bad}) AS {name}" for name, bad in sums.items())
    (kept,) = records(con, f"SELECT {asked} FROM kept")
    total = con.execute("SELECT count(*) FROM own_facts").fetchall()[0][0]
    conflicts = con.execute("SELECT count(*) FROM clashes").fetchall()[0][0]
    counts = {"in": total, "accepted": kept["accepted"], "quarantined": total - kept["accepted"]}
    counts |= kept | {"conflicts": conflicts}
    broken = dict(con.execute("SELECT broken, count(*) FROM judged GROUP BY broken").fetchall())
    by_policy = {rule.policy: broken.get(i, 0) for i, rule in enumerate(rules)}
    return counts | {name: by_policy[policy] for policy, name in REMOVED.items()}
