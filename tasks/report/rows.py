"""What became of the data: rows in, refused and set aside by reason, and the training order."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.parts import read_parts
from infra.store import Store
from schemas.artifact import Artifact, Manifest
from schemas.ratios import Ratios
from schemas.samples import REJECTS, ROWS, SPLITS
from tasks.balance import read_ratios
from tasks.report.inputs import ReportInputs
from tasks.validate.step import QUARANTINE
from tasks.validate.verdict import VERDICT


def data(inputs: ReportInputs, store: Store) -> dict[str, Any]:
    """reading, labelled, kinds and orders; each only where its step has run."""
    told: dict[str, Any] = {}
    if inputs.samples:
        folder = store.local(inputs.samples)
        rejects = read_parts(folder / "rejects", REJECTS)
        told["reading"] = {**inputs.samples.counts, **_by_source(folder, rejects, "rejected")}
    if inputs.labelled:
        folder = store.local(inputs.labelled)
        quarantine = read_parts(folder / "quarantine", QUARANTINE)
        parts = _by_source(folder, quarantine, "quarantined")
        told["checking"] = {**inputs.labelled.counts, **parts}
        verdict = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
        told["checking"]["licences"] = verdict["licences"]
        told["kinds"] = _kinds(folder)
    pairs = (("stage1", inputs.concepts, inputs.stage1), ("stage2", inputs.aligned, inputs.stage2))
    orders = [_order(name, plan, stage, store) for name, plan, stage in pairs if plan]
    if orders:
        told["orders"] = orders
    return told


def _by_source(folder: Path, table: pa.Table, refused: str) -> dict[str, Any]:
    """sources (in, accepted, refused, and the reasons of each) and reasons, of one step.

    Args:
        folder: the artifact whose `rows/` were accepted.
        table: the rows that were not.
        refused: what the step calls these.
    """
    found = read_parts(folder / "rows", ROWS, columns=["source"])["source"].value_counts()
    accepted = Counter({one["values"]: one["counts"] for one in found.to_pylist()})
    reasons = _reasons(table)
    lost = Counter(table["source"].to_pylist())
    sources = [
        {
            "source": source,
            "in": accepted[source] + lost[source],
            "accepted": accepted[source],
            refused: lost[source],
            "reasons": {r["reason"]: r["rows"] for r in reasons if r["source"] == source},
        }
        for source in sorted(accepted | lost)
    ]
    return {"sources": sources, "reasons": reasons}


def _reasons(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of source, reason and count, the most frequent first."""
    pairs = zip(table["source"].to_pylist(), table["reason"].to_pylist(), strict=True)
    counts = sorted(Counter(pairs).items(), key=lambda item: (-item[1], item[0]))
    return [{"source": source, "reason": why, "rows": n} for (source, why), n in counts]


def _kinds(labelled: Path) -> list[dict[str, Any]]:
    """Accepted rows by risk type and split, `clean` last."""
    table = read_parts(labelled / "rows", ROWS, columns=["risk_type", "split"])
    grouped = table.group_by(["risk_type", "split"]).aggregate([([], "count_all")]).to_pylist()
    counts = {(row["risk_type"], row["split"]): row["count_all"] for row in grouped}
    types = sorted({name for name, _ in counts}, key=lambda name: (name == "clean", name))
    return [
        {"type": name, **{split: counts.get((name, split), 0) for split in SPLITS}}
        for name in types
    ]


def _order(name: str, plan: Artifact, stage: Artifact | None, store: Store) -> dict[str, Any]:
    """One stage's training order: what was asked for, and what the plan has."""
    config = store.manifest(plan).config
    folder = store.local(plan)
    unsafe = _unsafe_positions(folder)
    epoch = len(unsafe) // config["epochs"]
    told = {
        "stage": name,
        "asked": config["clean_per_unsafe"],
        "unsafe": int(unsafe.sum()),
        "clean": int((~unsafe).sum()),
        "epoch": epoch,
        "epochs": config["epochs"],
        "choice": plan.counts["in"],
        "used": plan.counts["rows"],
        **_asked_and_achieved(read_ratios(folder)),
    }
    parts = store.manifest(stage).config["parts"] if stage else {}
    sizes = sorted({part["global_batch"] for part in parts.values()})
    return {**told, "batches": [{"size": s, "off": _worst_batch(unsafe, s)} for s in sizes]}


def _asked_and_achieved(ratios: Ratios) -> dict[str, Any]:
    """each_epoch, and shares: a row per risk type, level and source."""
    groups = (("type", ratios.types), ("level", ratios.levels), ("source", ratios.sources))
    return {
        "each_epoch": [epoch.model_dump() for epoch in ratios.epochs],
        "caps": ratios.source_caps,
        "most_uses": ratios.most_uses,
        "shares": [
            {"by": by, **share.model_dump(), "achieved": share.unsafe + share.clean}
            for by, shares in groups
            for share in shares
        ],
    }


def _unsafe_positions(plan: Path) -> np.ndarray:
    """Whether each position of the plan is unsafe, [positions] bool."""
    rows = read_parts(plan / "rows", ROWS, columns=["sample_id", "risk_level"])
    levels = np.asarray(rows.sort_by("sample_id")["risk_level"])
    return levels[pq.read_table(plan / "plan.parquet")["row"].to_numpy()] > 0


def _worst_batch(unsafe: np.ndarray, size: int) -> float:
    """The largest deviation of a whole global batch from the order's share, in items."""
    whole = unsafe[: len(unsafe) // size * size].reshape(-1, size).sum(1)
    return float(np.abs(whole - size * unsafe.mean()).max()) if len(whole) else 0.0


def from_world(manifest: Manifest) -> bool:
    """Whether the samples come from the tiny world, at least in part."""
    return "world" in manifest.parents or "world:" in json.dumps(manifest.config)
