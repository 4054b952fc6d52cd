"""The step itself: examine, check the limit, move bad rows to quarantine, write the verdict."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra.fingerprint import content_hash
from infra.parts import read_parts, write_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import ValidateConfig
from schemas.errors import DataError
from schemas.policy import refusal_pattern
from schemas.samples import REJECTS, ROWS, SPLITS
from schemas.taxonomy import CLEAN, load_taxonomy
from tasks.validate.docs import check
from tasks.validate.facts import Findings, examine
from tasks.validate.rules import Rule, rules

VERSION = 2
QUARANTINE = pa.schema([("sample_id", pa.string()), *REJECTS])


def validate(config: ValidateConfig, samples: Artifact, *, store: Store) -> Artifact:
    """Samples -> labelled (`rows/`, `quarantine/`, `docs/`, `verdict.json`); images stay there.

    Counts: in, accepted, quarantined, concept_only, clean_by_level, and per split unsafe and clean.

    Raises:
        DataError: more bad rows in a source than `max_reject_rate`.
    """
    taxonomy = load_taxonomy(config.taxonomy)

    def build(folder: Path) -> dict[str, int]:
        return build_labelled(folder, config, store.local(samples), place=samples.uri)

    return store.artifact(
        "validate",
        VERSION,
        config=config,
        parents={"samples": samples},
        inputs={"taxonomy": content_hash(taxonomy)},
        build=build,
    )


def build_labelled(
    folder: Path, config: ValidateConfig, samples: Path, *, place: str
) -> dict[str, int]:
    """Judge the rows of a samples folder into an empty folder; `place` is named in errors."""
    table = read_parts(samples / "rows", ROWS).sort_by("sample_id")
    if not table.num_rows:
        raise DataError(f"no rows in {place}; run ingest with a source that has some")
    rejects = read_parts(samples / "rejects", REJECTS)
    order = rules(config, load_taxonomy(config.taxonomy))
    found = examine(table, rules=order, refusal=refusal_pattern(config.refusal_markers))
    quarantine = _quarantine(table, found, order)
    sources = _rates(table, rejects, quarantine)
    _limit(sources, config, rejects=rejects, quarantine=quarantine, place=place)

    labelled = _labelled(table, found)
    counts = _counts(table, labelled, found)
    passed = check(found.scalars, folder / "docs", rules=order, counts=found.counts)
    write_parts(labelled, folder / "rows")
    write_parts(quarantine, folder / "quarantine")
    verdict = {
        "success": passed,
        "rules": [
            {"reason": r.reason, "checks": r.expect, "action": r.action, "found": n, **r.options}
            for r, n in zip(order, found.counts, strict=True)
        ],
        "sources": sources,
        "counts": counts,
    }
    (folder / "verdict.json").write_text(json.dumps(verdict, indent=1) + "\n")
    return counts


def _quarantine(table: pa.Table, found: Findings, order: tuple[Rule, ...]) -> pa.Table:
    bad = np.flatnonzero(found.broken >= 0)
    rows = table.take(pa.array(bad))
    return pa.table(
        {
            "sample_id": rows["sample_id"],
            "source": rows["source"],
            "source_key": rows["source_key"],
            "reason": pa.array([order[i].reason for i in found.broken[bad]], pa.string()),
            "detail": pa.array(list(found.detail[bad]), pa.string()),
        },
        schema=QUARANTINE,
    )


def _rates(
    table: pa.Table, rejects: pa.Table, quarantine: pa.Table
) -> dict[str, dict[str, float | int]]:
    rows, early, late = (Counter(t["source"].to_pylist()) for t in (table, rejects, quarantine))
    rates = {}
    for source in sorted(rows | early):
        total, bad = rows[source] + early[source], early[source] + late[source]
        rates[source] = {"in": total, "rejected": bad, "rate": bad / total}
    return rates


def _limit(
    sources: dict[str, dict[str, Any]],
    config: ValidateConfig,
    *,
    rejects: pa.Table,
    quarantine: pa.Table,
    place: str,
) -> None:
    """DataError for the worst source over the limit: the step leaves nothing, so it says all."""
    name, worst = max(sources.items(), key=lambda item: item[1]["rate"])
    if worst["rate"] <= config.max_reject_rate:
        return
    bad = pa.concat_tables([rejects, quarantine.select(REJECTS.names)]).to_pylist()
    own = [row for row in bad if row["source"] == name]
    reasons = Counter(row["reason"] for row in own).most_common(5)
    examples = "; ".join(f"{r['source_key']} ({r['reason']}: {r['detail']})" for r in own[:3])
    raise DataError(
        f"source {name!r}: {worst['rejected']} of {worst['in']} rows are bad, "
        f"{worst['rate']:.1%}, limit {config.max_reject_rate:.1%} (max_reject_rate). Reasons: "
        f"{dict(reasons)}. Such as {examples}. Rows refused at reading: rejects/ in {place}"
    )


def _labelled(table: pa.Table, found: Findings) -> pa.Table:
    """The rows that stay, with the two policies applied."""
    clean = found.changed.get("clean_by_level", np.zeros(table.num_rows, bool))
    concept = found.changed.get("concept", np.zeros(table.num_rows, bool))
    types = np.array(table["risk_type"].to_pylist(), dtype=object)
    extra = np.array(table["extra"].to_pylist(), dtype=object)
    for row in np.flatnonzero(clean):
        # The source's own word stays readable: a label is never rewritten in silence.
        stated = {**json.loads(extra[row]), "clean_by_level": types[row]}
        extra[row] = json.dumps(stated, sort_keys=True, ensure_ascii=False)
    types[clean] = CLEAN
    supervises = np.array(table["supervises"].to_pylist(), dtype=object)
    supervises[concept] = "concept"
    for name, values in (("risk_type", types), ("extra", extra), ("supervises", supervises)):
        column = ROWS.get_field_index(name)
        table = table.set_column(column, ROWS.field(name), pa.array(list(values), pa.string()))
    return table.filter(pa.array(found.broken < 0)).cast(ROWS)


def _counts(table: pa.Table, labelled: pa.Table, found: Findings) -> dict[str, int]:
    unsafe = np.asarray(labelled["risk_level"]) > 0
    split = np.asarray(labelled["split"].to_pylist())
    counts = {
        "in": table.num_rows,
        "accepted": labelled.num_rows,
        "quarantined": table.num_rows - labelled.num_rows,
        "concept_only": int(found.changed.get("concept", np.zeros(0)).sum()),
        "clean_by_level": int(found.changed.get("clean_by_level", np.zeros(0)).sum()),
    }
    for name in SPLITS:
        counts[f"{name}_unsafe"] = int((unsafe & (split == name)).sum())
        counts[f"{name}_clean"] = int((~unsafe & (split == name)).sum())
    return counts
