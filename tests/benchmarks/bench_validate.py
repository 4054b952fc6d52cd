"""Validation of a million rows beside plain DuckDB, which counts the same rules in one statement.

DuckDB alone neither writes rows, quarantine or pages, nor has a second engine count again: the
ratio is the price of those. Great Expectations' import is told apart. Each runs in a process of
its own. ROWS=100000 in the environment makes a tenth.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import pytest

from tests.benchmarks.contend import contend, machine, measured, python, warm
from tests.benchmarks.record import record

ROWS = int(os.environ.get("ROWS", 1_000_000))
# As tasks/validate does it: copies count all, the other rules what is bad about each row.
PLAIN = r"""
WITH turns AS (
    SELECT sample_id, source, split, risk_type, risk_level, supervises, group_id, image_ids,
        slices['judged_under'] AS policy, hash(messages, image_ids) AS content,
        CASE split WHEN 'test' THEN 2 WHEN 'calibration' THEN 1 ELSE 0 END AS split_rank,
        list_transform(list_filter(messages, lambda m: m.role = 'user'),
            lambda m: length(trim(m.text, e' \n\t\r'))) AS asked,
        list_transform(list_filter(messages, lambda m: m.role = 'assistant'),
            lambda m: replace(trim(m.text, e' \n\t\r'), '’', '''')) AS answers
    FROM read_parquet($parts)
), facts AS MATERIALIZED (
    SELECT * EXCLUDE (asked, answers, image_ids),
        coalesce(list_min(asked), 0) = 0 AS no_question,
        supervises = 'both' AND
            coalesce(list_min(list_transform(answers, lambda a: length(a))), 0) = 0 AS no_answer,
        coalesce(len(list_filter(answers, lambda a: NOT regexp_matches(a, $refusal, 'i'))), 1) = 0
            AND len(answers) > 0 AS refuses,
        risk_type IN $types AS known_type, split IN ('train', 'calibration', 'test') AS known_split,
        supervises IN ('both', 'concept', 'evaluation') AS known_use,
        risk_level BETWEEN 0 AND 3 AS known_level,
        risk_type = 'clean' AND risk_level <> 0 AS risky_clean
    FROM turns
), sound AS (
    SELECT group_id, policy, risk_level, if(risk_level = 0, 'clean', risk_type) AS kind FROM facts
    WHERE sample_id IS NOT NULL AND source IS NOT NULL AND group_id IS NOT NULL AND known_type
        AND known_split AND known_use AND known_level AND NOT risky_clean AND NOT no_question
        AND NOT coalesce(no_answer, false)
), clashes AS (
    SELECT count(*) AS n FROM sound GROUP BY group_id, policy
    HAVING min(kind) < max(kind) OR max(risk_level) - min(risk_level) >= 2
), groups AS (
    SELECT group_id, max(split_rank) AS top, min(source) FILTER (split_rank = 2) AS low,
        max(source) FILTER (split_rank = 2) AS high
    FROM facts GROUP BY ALL HAVING min(split_rank) < max(split_rank)
), contents AS (
    SELECT content, count(*) AS n, min(source) FILTER (split_rank = 2) AS low,
        max(source) FILTER (split_rank = 2) AS high
    FROM facts GROUP BY ALL HAVING count(*) > 1
), ids AS (SELECT count(*) AS n FROM facts GROUP BY sample_id HAVING n > 1)
SELECT
    (SELECT count(*) FROM facts WHERE group_id IS NULL),
    (SELECT count(*) FROM facts WHERE NOT known_type),
    (SELECT count(*) FROM facts WHERE NOT known_split),
    (SELECT count(*) FROM facts WHERE NOT known_use),
    (SELECT count(*) FROM facts WHERE NOT known_level),
    (SELECT count(*) FROM facts WHERE risky_clean),
    (SELECT count(*) FROM facts WHERE risk_type <> 'clean' AND risk_level = 0),
    (SELECT count(*) FROM facts WHERE no_question),
    (SELECT count(*) FROM facts WHERE no_answer),
    (SELECT count(*) FROM facts f LEFT JOIN groups g USING (group_id)
        LEFT JOIN contents c USING (content)
        WHERE split_rank < 2 AND (g.low <> f.source OR g.high <> f.source
            OR c.low <> f.source OR c.high <> f.source)),
    (SELECT coalesce(sum(n), 0) FROM ids),
    (SELECT coalesce(sum(n), 0) FROM contents),
    (SELECT count(*) FROM facts JOIN groups USING (group_id) WHERE split_rank < top),
    (SELECT count(*) FROM facts WHERE split = 'train' AND supervises = 'both'
        AND risk_level >= 2 AND NOT refuses),
    (SELECT coalesce(sum(n), 0) FROM clashes)
"""


@pytest.mark.timeout(1800)
def test_time_and_memory_of_validating_a_million_rows(tmp_path: Path) -> None:
    samples, own = tmp_path / "samples", "tests.benchmarks.bench_validate"
    try:
        python("tests.benchmarks.snapshots", samples, ROWS, "faults")
        warm(samples)
        (tmp_path / "out").mkdir()
        ours = measured(own, "ours", samples, tmp_path / "out")
        duckdb = measured(own, "duckdb", samples)
        library = measured(own, "import")
    finally:
        rmtree(tmp_path)
    assert ours.found == duckdb.found and min(duckdb.found) > 0
    numbers = {"rows": ROWS, "faults": sum(duckdb.found), **machine(), **ours.numbers("ours")}
    numbers |= duckdb.numbers("duckdb") | library.numbers("great_expectations_import")
    numbers["times_duckdb"] = round(ours.seconds / duckdb.seconds, 2)
    without = ours.seconds - library.seconds
    numbers["times_duckdb_without_import"] = round(without / duckdb.seconds, 2)
    record("validate", numbers)


def by_ours(samples: str, out: str) -> list[int]:
    """What each rule found, in the order of PLAIN; of missing values those of the group alone."""
    from schemas.config import ValidateConfig
    from tasks.validate import build_labelled

    build_labelled(Path(out), ValidateConfig(max_reject_rate=0.2), Path(samples), place=samples)
    rules = json.loads((Path(out) / "verdict.json").read_text())["rules"]
    return [
        rule["found"]
        for rule in rules
        if rule["reason"] != "missing_value" or rule["column"] == "group_id"
    ]


def by_duckdb(samples: str) -> list[int]:
    """The same from one statement, with DuckDB's own settings."""
    import duckdb

    from schemas.config import ValidateConfig
    from schemas.policy import refusal_pattern
    from schemas.taxonomy import load_taxonomy

    given = {
        "parts": [str(part) for part in sorted((Path(samples) / "rows").glob("*.parquet"))],
        "refusal": refusal_pattern(ValidateConfig().refusal_markers),
        "types": load_taxonomy().type_ids,
    }
    (found,) = duckdb.connect().execute(PLAIN, given).fetchall()
    return list(found)


def by_import() -> None:
    """What a run pays before Great Expectations looks at the first row."""
    import great_expectations  # noqa: F401


CONTENDERS: dict[str, Callable] = {"ours": by_ours, "duckdb": by_duckdb, "import": by_import}

if __name__ == "__main__":
    name, *words = sys.argv[1:]
    contend(lambda: CONTENDERS[name](*words))
