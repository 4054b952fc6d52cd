"""The step itself: examine, check the limits, move bad rows to quarantine, write the verdict."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.fingerprint import content_hash
from infra.parts import ROWS_PER_GROUP, parts_of, write_stream
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import ValidateConfig
from schemas.errors import DataError
from schemas.licence import load_licences
from schemas.policy import refusal_pattern
from schemas.samples import REJECTS, ROWS
from schemas.taxonomy import load_taxonomy
from tasks.validate.docs import BATCH, check
from tasks.validate.facts import count_rules, examined
from tasks.validate.limits import check_contamination, check_rows, check_sources
from tasks.validate.rule import Rule
from tasks.validate.rules import rules
from tasks.validate.totals import by_source, training_rows
from tasks.validate.verdict import CONFLICTS, VERDICT, verdict

if TYPE_CHECKING:
    import duckdb

VERSION = 3
QUARANTINE = pa.schema([("sample_id", pa.string()), *REJECTS])
CLASHING = pa.schema(
    [
        *(("group_id", pa.string()), ("sample_id", pa.string()), ("source", pa.string())),
        *(("source_key", pa.string()), ("risk_type", pa.string()), ("risk_level", pa.int8())),
        ("detail", pa.string()),
    ]
)
LABELLED = """
SELECT given.* EXCLUDE position REPLACE (kept.risk_type AS risk_type,
    kept.supervises AS supervises), stated_type, clean_by_level
FROM given JOIN kept USING (position) ORDER BY sample_id
"""
SET_ASIDE = """
SELECT sample_id, source, source_key, $reasons[broken + 1] AS reason, detail
FROM own_facts JOIN judged USING (position) WHERE broken IS NOT NULL ORDER BY ALL
"""
IN_CONFLICT = """
SELECT group_id, sample_id, source, source_key, risk_type, risk_level, clash AS detail
FROM own_facts JOIN clashes USING (position) ORDER BY ALL
"""


def validate(config: ValidateConfig, samples: Artifact, *, store: Store) -> Artifact:
    """Samples -> labelled; images stay there.

    Files: `rows/`, `quarantine/` (a reason each), `conflicts.parquet` (labels of one image group
    that contradict each other), `docs/` (Great Expectations) and `verdict.json`. Counts are those
    of `tasks.validate.totals.counted`.

    Raises:
        DataError: more bad rows in a source than `max_reject_rate`, fewer rows of a type or level
            than asked for, or contamination where this is refused.
    """
    taxonomy, known = load_taxonomy(config.taxonomy), load_licences(config.licences)

    def build(folder: Path) -> dict[str, int]:
        return build_labelled(folder, config, store.local(samples), place=samples.uri)

    return store.artifact(
        "validate",
        VERSION,
        config=config,
        parents={"samples": samples},
        inputs={"taxonomy": content_hash(taxonomy), "licences": content_hash(known)},
        build=build,
    )


def build_labelled(
    folder: Path, config: ValidateConfig, samples: Path, *, place: str, batch: int = BATCH
) -> dict[str, int]:
    """Judge the rows of a samples folder into an empty folder.

    Args:
        folder: where the files go.
        config: limits and policies.
        samples: what ingest wrote.
        place: the samples, named in errors.
        batch: most rows that Great Expectations sees at a time.
    """
    rows = parts_of(samples / "rows", ROWS)
    if not any(pq.read_metadata(part).num_rows for part in rows):
        raise DataError(f"no rows in {place}; run ingest with a source that has some")
    taxonomy = load_taxonomy(config.taxonomy)
    order = rules(config, taxonomy)
    with examined(
        rows,
        rejects=parts_of(samples / "rejects", REJECTS),
        rules=order,
        refusal=refusal_pattern(config.refusal_markers),
        home=folder,
    ) as con:
        if config.contamination == "refuse":
            check_contamination(con)
        sources, there = by_source(con, order), training_rows(con, taxonomy)
        check_sources(con, sources, rules=order, limit=config.max_reject_rate, place=place)
        check_rows(there, config, place=place)
        found = count_rules(con, order)
        passed = check(con, folder / "docs", rules=order, counts=found, batch=batch)
        _write(con, folder, order)
        told = verdict(con, config, rules=order, found=found)
    told = {"success": passed, **told, "sources": sources, "training_rows": there}
    written = json.dumps(told, indent=1, ensure_ascii=False)
    (folder / VERDICT).write_text(f"{written}\n", encoding="utf-8")
    return told["counts"]


def _write(con: "duckdb.DuckDBPyConnection", folder: Path, order: tuple[Rule, ...]) -> None:
    given = {"reasons": [rule.reason for rule in order]}
    write_stream(map(_labelled, _tables(con, LABELLED)), ROWS, folder / "rows")
    aside = _tables(con, SET_ASIDE, params=given)
    write_stream((table.cast(QUARANTINE) for table in aside), QUARANTINE, folder / "quarantine")
    with pq.ParquetWriter(folder / CONFLICTS, CLASHING) as writer:
        for table in _tables(con, IN_CONFLICT):
            writer.write_table(table.cast(CLASHING))


def _tables(
    con: "duckdb.DuckDBPyConnection", query: str, *, params: dict[str, Any] | None = None
) -> Iterator[pa.Table]:
    """The result of a query in pieces."""
    for piece in con.sql(query, params=params or {}).to_arrow_reader(ROWS_PER_GROUP):
        yield pa.Table.from_batches([piece])


def _labelled(table: pa.Table) -> pa.Table:
    """Rows of ROWS; where a policy made a row clean, `extra` keeps what the source had said.

    A label is never rewritten in silence.
    """
    rows = pc.indices_nonzero(table["clean_by_level"]).to_pylist()
    if rows:
        extra = table["extra"].to_pylist()
        for row in rows:
            stated = {**json.loads(extra[row]), "clean_by_level": table["stated_type"][row].as_py()}
            extra[row] = json.dumps(stated, sort_keys=True, ensure_ascii=False)
        place = table.schema.get_field_index("extra")
        table = table.set_column(place, ROWS.field("extra"), pa.array(extra, pa.string()))
    return table.select(ROWS.names).cast(ROWS)
