"""Rows -> one line of scalar facts each, and the verdict of every rule, by DuckDB.

DuckDB streams over the Parquet parts and keeps the facts in a file beside them, so that memory
holds neither the texts nor the facts of a large snapshot.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import cpu_count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from schemas.errors import ConfigError
from schemas.taxonomy import CLEAN
from tasks.validate.rule import Rule
from tasks.validate.rules import sound
from tasks.validate.sets import relate

if TYPE_CHECKING:
    import duckdb

MEMORY = "512MB"  # what DuckDB may hold before it goes on in the file
THREADS = 4  # each needs memory of its own

PART = 2**32  # from the position of a part's first row to that of the next part's
GIVEN = f"""
CREATE VIEW given AS
SELECT *, file_index::BIGINT * {PART} + file_row_number AS position
FROM read_parquet([{{parts}}])
"""
REJECTS = "CREATE VIEW rejects AS SELECT * FROM read_parquet([{parts}])"
# Turns as lists: chars is the shortest turn's length, so that one empty turn shows.
OWN_FACTS = r"""
CREATE TABLE own_facts AS
WITH turns AS (
    SELECT *,
        list_transform(list_filter(messages, lambda m: m.role = 'user'),
            lambda m: length(trim(m.text, e' \n\t\r'))) AS asked,
        list_transform(list_filter(messages, lambda m: m.role = 'assistant'),
            lambda m: replace(trim(m.text, e' \n\t\r'), '’', '''')) AS answers
    FROM given
)
SELECT position, sample_id, source, source_key, split, risk_type, risk_level, supervises,
    language, trim(coalesce(licence, '')) AS licence, group_id,
    coalesce(slices['judged_under'], '') AS policy,
    sha256(to_json({'messages': messages, 'images': image_ids})) AS content_id,
    CASE split WHEN 'test' THEN 2 WHEN 'calibration' THEN 1 ELSE 0 END AS split_rank,
    coalesce(len(image_ids), 0)::INTEGER AS images,
    coalesce(list_min(asked), 0) AS question_chars,
    coalesce(list_min(list_transform(answers, lambda a: length(a))), 0) AS answer_chars,
    coalesce(len(answers) > 0 AND len(list_filter(answers,
        lambda a: NOT regexp_matches(a, $refusal, 'i'))) = 0, false) AS refuses
FROM turns
"""
JUDGED = """
CREATE TABLE judged AS
SELECT *, {flags} FROM (
    SELECT position, CASE {cases} END AS broken, CASE {details} END AS detail, {hits} FROM facts
)
"""
# Rows that stay, with what the policies make of them.
KEPT = f"""
CREATE VIEW kept AS
SELECT own_facts.* REPLACE (
        CASE WHEN clean_by_level THEN '{CLEAN}' ELSE risk_type END AS risk_type,
        CASE WHEN concept THEN 'concept' ELSE supervises END AS supervises),
    risk_type AS stated_type, clean_by_level, concept
FROM own_facts JOIN judged USING (position) WHERE broken IS NULL
"""
FLAGS = ("clean_by_level", "concept")


@contextmanager
def examined(
    rows: Sequence[Path],
    *,
    rejects: Sequence[Path],
    rules: tuple[Rule, ...],
    refusal: str,
    home: Path,
) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A connection that knows every row's facts and verdict, as long as the context lasts.

    Tables and views: `given` (the rows as they are, with `position`), `rejects`, `facts`, `judged`
    (broken: index of the first quarantine rule that a row breaks, or NULL; detail for people;
    clean_by_level, concept: what a policy makes of a row that stays), `kept`.

    Args:
        rows: parts with the schema ROWS, in any order.
        rejects: parts with the schema REJECTS.
        rules: in order of precedence.
        refusal: regular expression of a refusing answer, matched without regard to case.
        home: where a temporary folder may be made.

    Raises:
        ConfigError: a refusal marker that DuckDB's engine (RE2) does not know.
    """
    import duckdb

    with TemporaryDirectory(dir=home) as folder:
        settings = {"memory_limit": MEMORY, "threads": min(THREADS, cpu_count() or 1)}
        settings |= {"temp_directory": f"{folder}/spilt", "preserve_insertion_order": False}
        with duckdb.connect(f"{folder}/facts.duckdb", config=settings) as con:
            con.execute(GIVEN.format(parts=_quoted(rows)))
            con.execute(REJECTS.format(parts=_quoted(rejects)))
            _state(con, refusal)
            relate(con, sound=sound(rules))
            con.execute(_judged(rules))
            con.execute(KEPT)
            yield con


def _state(con: "duckdb.DuckDBPyConnection", refusal: str) -> None:
    from duckdb import InvalidInputException

    try:
        con.execute(OWN_FACTS, {"refusal": refusal})
    except InvalidInputException as error:
        raise ConfigError(f"refusal_markers: {error}") from error


def count_rules(con: "duckdb.DuckDBPyConnection", rules: tuple[Rule, ...]) -> list[int]:
    """Per rule, what its expectation must count too."""
    sums = ", ".join(f"count(*) FILTER ({r.measured or r.bad})" for r in rules)
    return list(con.execute(f"SELECT {sums} FROM facts").fetchall()[0])


def _judged(rules: tuple[Rule, ...]) -> str:
    quarantine = [(i, r) for i, r in enumerate(rules) if r.action == "quarantine"]
    bad = {flag: [r.bad for r in rules if r.action == flag] for flag in FLAGS}
    hits = (f"({' OR '.join(found) or 'false'}) AS {flag}_hit" for flag, found in bad.items())
    flags = (f"broken IS NULL AND coalesce({flag}_hit, false) AS {flag}" for flag in FLAGS)
    return JUDGED.format(
        flags=", ".join(flags),
        cases=" ".join(f"WHEN {r.bad} THEN {i}" for i, r in quarantine),
        details=" ".join(f"WHEN {r.bad} THEN ({r.detail})::VARCHAR" for _, r in quarantine),
        hits=", ".join(hits),
    )


def _quoted(parts: Sequence[Path]) -> str:
    """Paths as SQL texts that are no patterns."""
    plain = ("".join(f"[{c}]" if c in "[*?" else c for c in str(part)) for part in parts)
    return ", ".join("'" + part.replace("'", "''") + "'" for part in plain)
