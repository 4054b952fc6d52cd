"""Rows -> one line of scalar facts each, and the verdict of every rule, by DuckDB."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from schemas.errors import ConfigError
from tasks.validate.rules import Rule

if TYPE_CHECKING:
    import duckdb

# Turns as lists: chars is the shortest turn's length, so that one empty turn shows.
FACTS = """
CREATE TEMP TABLE facts AS
WITH turns AS (
    SELECT *,
        list_transform(list_filter(messages, lambda m: m.role = 'user'),
            lambda m: length(trim(m.text, ' \n\t\r'))) AS asked,
        list_transform(list_filter(messages, lambda m: m.role = 'assistant'),
            lambda m: replace(trim(m.text, ' \n\t\r'), '’', '''')) AS answers,
        sha256(to_json({'messages': messages, 'images': image_ids})) AS content_id,
        CASE split WHEN 'test' THEN 2 WHEN 'calibration' THEN 1 ELSE 0 END AS split_rank,
        len(image_ids) AS images
    FROM given
), images AS (
    SELECT image, max(split_rank) AS image_rank
    FROM (SELECT unnest(image_ids) AS image, split_rank FROM turns) GROUP BY image
), ranks AS (
    SELECT position, max(image_rank) AS image_rank
    FROM (SELECT position, unnest(image_ids) AS image FROM turns) JOIN images USING (image)
    GROUP BY position
)
SELECT position, sample_id, content_id, source, source_key, split, risk_type, risk_level,
    supervises, split_rank, turns.images, coalesce(ranks.image_rank, 0) AS image_rank,
    coalesce(list_min(asked), 0) AS question_chars,
    coalesce(list_min(list_transform(answers, lambda a: length(a))), 0) AS answer_chars,
    len(answers) > 0 AND len(list_filter(answers,
        lambda a: NOT regexp_matches(a, $refusal, 'i'))) = 0 AS refuses,
    count(*) OVER same_id AS sample_id_copies,
    row_number() OVER (same_id ORDER BY split_rank DESC, position) AS sample_id_copy,
    first_value(source_key) OVER (same_id ORDER BY split_rank DESC, position) AS sample_id_first,
    count(*) OVER same AS content_id_copies,
    row_number() OVER (same ORDER BY split_rank DESC, position) AS content_id_copy,
    first_value(source_key) OVER (same ORDER BY split_rank DESC, position) AS content_id_first
FROM turns LEFT JOIN ranks USING (position)
WINDOW same_id AS (PARTITION BY sample_id), same AS (PARTITION BY content_id)
"""
# What Great Expectations sees: scalars only, never a text or an image.
SCALARS = (
    "sample_id, content_id, source, split, risk_type, risk_level, supervises, question_chars, "
    "answer_chars"
)


@dataclass(frozen=True)
class Findings:
    """What the rules found; arrays are in the order of the rows given.

    broken (n,) int: index of the first quarantine rule that a row breaks, -1 for none.
    detail (n,): text for people. changed: action -> (n,) bool. counts: per rule, what its
    expectation must count too. scalars: the frame for Great Expectations.
    """

    broken: np.ndarray
    detail: np.ndarray
    changed: dict[str, np.ndarray]
    counts: list[int]
    scalars: Any


def examine(table: pa.Table, *, rules: tuple[Rule, ...], refusal: str) -> Findings:
    """Judge every row by every rule.

    Args:
        table: rows with the schema ROWS.
        rules: in order of precedence.
        refusal: regular expression of a refusing answer, matched without regard to case.

    Raises:
        ConfigError: a refusal marker that DuckDB's engine (RE2) does not know.
    """
    import duckdb

    numbered = table.append_column("position", pa.array(np.arange(table.num_rows)))
    with duckdb.connect() as con:
        con.register("given", numbered)
        try:
            con.execute(FACTS, {"refusal": refusal})
        except duckdb.InvalidInputException as error:
            raise ConfigError(f"refusal_markers: {error}") from error
        quarantine = [(i, r) for i, r in enumerate(rules) if r.action == "quarantine"]
        cases = " ".join(f"WHEN {r.bad} THEN {i}" for i, r in quarantine)
        details = " ".join(f"WHEN {r.bad} THEN ({r.detail})::VARCHAR" for _, r in quarantine)
        judged = _columns(
            con, f"CASE {cases} ELSE -1 END AS broken, CASE {details} ELSE '' END AS detail"
        )
        kept = judged["broken"] < 0
        changed: dict[str, np.ndarray] = {
            r.action: _columns(con, f"coalesce({r.bad}, false) AS hit")["hit"] & kept
            for r in rules
            if r.action != "quarantine"
        }
        sums = ", ".join(f"count(*) FILTER ({r.measured or r.bad})" for r in rules)
        counts = list(con.execute(f"SELECT {sums} FROM facts").fetchall()[0])
        scalars = con.execute(f"SELECT {SCALARS} FROM facts ORDER BY position").df()
    return Findings(judged["broken"], judged["detail"], changed, counts, scalars)


def _columns(con: "duckdb.DuckDBPyConnection", columns: str) -> dict[str, np.ndarray]:
    return con.execute(f"SELECT {columns} FROM facts ORDER BY position").fetchnumpy()
