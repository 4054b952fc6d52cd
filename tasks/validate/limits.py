"""What a snapshot as a whole must not be: too bad, too thin, or taught with its own test."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from schemas.config import ValidateConfig
from schemas.errors import DataError
from tasks.validate.rule import Rule
from tasks.validate.totals import CONTAMINATION, records

if TYPE_CHECKING:
    import duckdb

FAULTS = """
SELECT source_key, reason, detail FROM (
    SELECT source, source_key, reason, detail FROM rejects
    UNION ALL SELECT source, source_key, $reasons[broken + 1], detail
    FROM own_facts JOIN judged USING (position) WHERE broken IS NOT NULL AND broken NOT IN ({no}))
WHERE source = $source
"""


def check_limits(
    con: "duckdb.DuckDBPyConnection",
    config: ValidateConfig,
    *,
    rules: tuple[Rule, ...],
    totals: Mapping[str, Any],
    place: str,
) -> None:
    """DataError for the first limit that is broken.

    Args:
        con: holds the facts and verdicts.
        config: the limits.
        rules: the reasons.
        totals: `sources` and `training_rows`, as verdict.json tells them.
        place: the samples, named for people.
    """
    if config.contamination == "refuse":
        check_contamination(con)
    limit = config.max_reject_rate
    check_sources(con, totals["sources"], rules=rules, limit=limit, place=place)
    check_rows(totals["training_rows"], config, place=place)


def check_sources(
    con: "duckdb.DuckDBPyConnection",
    sources: Mapping[str, Any],
    *,
    rules: tuple[Rule, ...],
    limit: float,
    place: str,
) -> None:
    """DataError for the worst source over the limit.

    Args:
        con: holds `rejects` and `judged`.
        sources: what `by_source` counts.
        rules: the reasons.
        limit: largest share of a source's rows that may be bad.
        place: the samples, named for people.
    """
    name, worst = max(sources.items(), key=lambda item: item[1]["rate"])
    if worst["rate"] <= limit:
        return
    no = ", ".join(["-1", *(str(i) for i, rule in enumerate(rules) if rule.policy)])
    faults, given = FAULTS.format(no=no), {"source": name, "reasons": [r.reason for r in rules]}
    reasons = con.execute(
        f"SELECT reason, count(*) AS n FROM ({faults}) GROUP BY ALL "
        "ORDER BY n DESC, reason LIMIT 5",
        given,
    ).fetchall()
    # Of every reason one before the second of any.
    turn = "row_number() OVER (PARTITION BY reason ORDER BY source_key)"
    rows = con.execute(f"{faults} ORDER BY {turn}, source_key LIMIT 3", given).fetchall()
    examples = "; ".join(f"{key} ({reason}: {detail})" for key, reason, detail in rows)
    raise DataError(
        f"source {name!r}: {worst['rejected']} of {worst['in']} rows are bad, "
        f"{worst['rate']:.1%}, limit {limit:.1%}. Most frequent reasons: {dict(reasons)}. Such as "
        f"{examples}. Correct the source, or allow more by max_reject_rate in [validation] of a "
        f"preset. Rows refused at reading: rejects/ in {place}"
    )


def check_contamination(con: "duckdb.DuckDBPyConnection") -> None:
    """DataError if any row to learn from is also a test item of another source."""
    pairs = records(con, CONTAMINATION)
    if not pairs:
        return
    found = ", ".join(f"{p['source']!r} with {p['test_source']!r}: {p['rows']}" for p in pairs)
    rows = con.execute(
        "SELECT source_key, test_item.key FROM facts WHERE test_item IS NOT NULL "
        "ORDER BY source, source_key LIMIT 3"
    ).fetchall()
    examples = "; ".join(f"{key} (test item {test})" for key, test in rows)
    raise DataError(
        f"{sum(p['rows'] for p in pairs)} rows of the training and calibration splits share an "
        f"image group or their whole content with test items of another source: {found}. Such as "
        f"{examples}. Leave them out of the source, or set contamination = remove"
    )


def check_rows(
    there: Mapping[str, Mapping[str, int]], config: ValidateConfig, *, place: str
) -> None:
    """DataError if a type or level has fewer rows to train on than asked for.

    Args:
        there: rows by name, of `types` and of `levels`.
        config: the two least numbers.
        place: the samples, named for people.
    """
    asked = {"types": config.min_rows_per_type, "levels": config.min_rows_per_level}
    for kind, least in asked.items():
        few = [f"{name}: {n}" for name, n in there[kind].items() if n < least]
        if few:
            setting = f"min_rows_per_{kind.removesuffix('s')}"
            raise DataError(
                f"{setting} = {least}, and the training split has too few rows of these {kind}: "
                f"{', '.join(few)}. Add a source that has such rows, or lower {setting}. Rows "
                f"refused at reading: rejects/ in {place}"
            )
