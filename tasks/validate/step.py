"""The step itself: examine, check the limits, move bad rows to quarantine, write the verdict."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.attempt import Build
from infra.fingerprint import content_hash
from infra.parts import parts_of, write_stream
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
from tasks.validate.labelled import labelled, tables
from tasks.validate.limits import check_limits
from tasks.validate.rule import Rule
from tasks.validate.rules import rules
from tasks.validate.totals import by_source, training_rows
from tasks.validate.verdict import CONFLICTS, VERDICT, verdict

if TYPE_CHECKING:
    import duckdb

VERSION = 4
REFUSED = "refused"  # the step of what is left of a validation that fails
QUARANTINE = pa.schema([("sample_id", pa.string()), *REJECTS])
CLASHING = pa.schema(
    [
        *(("group_id", pa.string()), ("sample_id", pa.string()), ("source", pa.string())),
        *(("source_key", pa.string()), ("risk_type", pa.string()), ("risk_level", pa.int8())),
        ("detail", pa.string()),
    ]
)
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
            than asked for, or contamination where this is refused. It names an artifact of the
            step `refused`, with `quarantine/`, `conflicts.parquet` and `verdict.json` as above.
    """
    taxonomy, known = load_taxonomy(config.taxonomy), load_licences(config.licences)
    inputs = {"taxonomy": content_hash(taxonomy), "licences": content_hash(known)}

    def publish(step: str, build: Build) -> Artifact:
        parents = {"samples": samples}
        return store.artifact(
            step, VERSION, config=config, parents=parents, inputs=inputs, build=build
        )

    def build(folder: Path) -> dict[str, int]:
        place = store.local(samples)
        return build_labelled(
            folder, config, place, place=samples.uri, keep=partial(publish, REFUSED)
        )

    return publish("validate", build)


def build_labelled(
    folder: Path,
    config: ValidateConfig,
    samples: Path,
    *,
    place: str,
    keep: Callable[[Build], Artifact] | None = None,
    batch: int = BATCH,
) -> dict[str, int]:
    """Judge the rows of a samples folder into an empty folder.

    Args:
        folder: where the files go.
        config: limits and policies.
        samples: what ingest wrote.
        place: the samples, named in errors.
        keep: publishes what was found where a limit is broken; None for the error alone.
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
        totals = {"sources": by_source(con, order), "training_rows": training_rows(con, taxonomy)}
        found = count_rules(con, order)
        judge = partial(_write, con, config=config, order=order, found=found, totals=totals)
        try:
            check_limits(con, config, rules=order, totals=totals, place=place)
        except DataError as error:
            if keep is None:
                raise
            kept = keep(partial(judge, success=False))
            raise DataError(f"{error}. All that break a rule: quarantine/ in {kept.uri}") from None
        passed = check(con, folder / "docs", rules=order, counts=found, batch=batch)
        write_stream(labelled(con, rows), ROWS, folder / "rows")
        return judge(folder, success=passed)


def _write(
    con: "duckdb.DuckDBPyConnection",
    folder: Path,
    *,
    config: ValidateConfig,
    order: tuple[Rule, ...],
    found: list[int],
    totals: dict[str, Any],
    success: bool,
) -> dict[str, int]:
    """All but the rows that stay; returns the step's counts."""
    aside = tables(con, SET_ASIDE, params={"reasons": [rule.reason for rule in order]})
    write_stream((table.cast(QUARANTINE) for table in aside), QUARANTINE, folder / "quarantine")
    with pq.ParquetWriter(folder / CONFLICTS, CLASHING) as writer:
        for table in tables(con, IN_CONFLICT):
            writer.write_table(table.cast(CLASHING))
    told = {"success": success, **verdict(con, config, rules=order, found=found), **totals}
    written = json.dumps(told, indent=1, ensure_ascii=False)
    (folder / VERDICT).write_text(f"{written}\n", encoding="utf-8")
    return told["counts"]
