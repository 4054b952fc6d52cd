"""Evaluate: one arm (base, after stage 1, after stage 2) on the held-out items of a snapshot."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.fingerprint import content_hash
from infra.parts import read_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig, MethodConfig
from schemas.errors import DataError
from schemas.hints import load_hints
from schemas.policies import operators_policy
from schemas.report import ArmReport
from schemas.samples import ROWS, askable
from schemas.taxonomy import load_taxonomy
from tasks.base_model import FOLDER, libraries
from tasks.encode import FeatureCache
from tasks.evaluate.judging import Judge, reference
from tasks.evaluate.metrics import arm_report
from tasks.progress import progress

if TYPE_CHECKING:
    from model.guard import Answer
    from tasks.evaluate.arms import Respond

VERSION = 3
YES = ("true", "yes", "1")  # a table's cells are text
ITEMS, REPORT = "items.parquet", "report.json"


def evaluate(
    config: EvaluateConfig,
    arm: str,
    base: Artifact,
    labelled: Artifact,
    features: Artifact,
    *,
    store: Store,
    model: Artifact | MethodConfig | None = None,
) -> Artifact:
    """`items.parquet` (one judged row per item) and `report.json` (ArmReport) of one arm.

    Args:
        config: batch, answer length, intervals.
        arm: its name in tables.
        base: the base model; alone it is the arm that the others are compared with.
        labelled: its test split is what is asked.
        features: the encoder's features of the same images; nothing is encoded twice.
        store: where artifacts live.
        model: a trained stage, answered with its guard; or a method without training, whose hints
            the base is given by the items' own labels; None for the base as it is.

    Raises:
        DataError: no test items.
    """
    parents = {"base": base, "labelled": labelled, "features": features}
    oracle = model if isinstance(model, MethodConfig) else None
    if isinstance(model, Artifact):
        parents["model"] = model
    taxonomy = load_taxonomy(config.taxonomy)
    told = {"taxonomy": taxonomy, "policy": operators_policy(config.policy, taxonomy=taxonomy)}
    if oracle is not None:
        told["hints"] = load_hints(oracle.hints, taxonomy=taxonomy)
    asked = Asked(config, arm, parents, store, oracle)
    return store.artifact(
        "evaluate",
        VERSION,
        config={"arm": arm, **config.model_dump()},
        parents=parents,
        inputs={**{name: content_hash(part) for name, part in told.items()}, **libraries()},
        build=lambda folder: _evaluate(asked, folder),
    )


@dataclass(frozen=True)
class Asked:
    """One arm to be evaluated."""

    config: EvaluateConfig
    arm: str
    parents: dict[str, Artifact]
    store: Store
    oracle: MethodConfig | None

    def open(self) -> "Respond":
        """How this arm answers."""
        from tasks.evaluate.arms import open_arm, open_backbone, open_oracle

        taxonomy = load_taxonomy(self.config.taxonomy)
        half = self.config.precision == "bf16"
        base = open_backbone(self.store.local(self.parents["base"]) / FOLDER, half=half)
        longest = self.config.max_new_tokens
        if self.oracle is not None:
            return open_oracle(base, self.oracle, taxonomy=taxonomy, max_new_tokens=longest)
        model = self.parents.get("model")
        return open_arm(
            base,
            self.store.local(model) / FOLDER if model else None,
            policy=operators_policy(self.config.policy, taxonomy=taxonomy),
            max_new_tokens=longest,
        )


def read_report(artifact: Artifact, *, store: Store) -> ArmReport:
    """The numbers of an evaluate artifact."""
    return ArmReport.model_validate_json((store.local(artifact) / REPORT).read_bytes())


def _evaluate(asked: Asked, folder: Path) -> dict[str, int]:
    config = asked.config
    rows = held_out_rows(asked.store.local(asked.parents["labelled"]))
    answers = _answers(asked, rows)
    judge = Judge.of(rows, config.refusal_markers)
    judged = [judged_item(row, answer, judge) for row, answer in zip(rows, answers, strict=True)]
    report = arm_report(asked.arm, judged, config, load_taxonomy(config.taxonomy))
    pq.write_table(pa.Table.from_pylist(judged), folder / ITEMS)
    (folder / REPORT).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    return {"items": len(judged)}


def held_out_rows(labelled: Path) -> list[dict[str, Any]]:
    """The test split's askable rows in the order of asking; DataError if there are none."""
    table = read_parts(labelled / "rows", ROWS)
    table = table.filter(pc.and_(pc.equal(table["split"], "test"), askable(table)))
    if not table.num_rows:
        raise DataError(
            "no row of at most one image is in the test split, so nothing can be evaluated: give "
            "a source with split=test, or raise ingest.test"
        )
    # Items of like length together: less padding, and the same batches on every run.
    rows = table.sort_by("sample_id").to_pylist()
    return sorted(rows, key=lambda row: (not row["image_ids"], len(question_of(row))))


def question_of(row: dict[str, Any]) -> str:
    """The first thing that the user says."""
    return next(m["text"] for m in row["messages"] if m["role"] == "user")


def _answers(asked: Asked, rows: list[dict[str, Any]]) -> list["Answer"]:
    cache, respond = FeatureCache(asked.parents["features"]), asked.open()
    size = asked.config.batch
    answers: list[Answer] = []
    with progress(f"evaluate {asked.arm}", len(rows)) as tick:
        for first in range(0, len(rows), size):
            batch = rows[first : first + size]
            cache.expect(partial(_coming, rows, first))
            seen = _coming(rows, first, size)
            images = iter(cache.batch(seen)) if seen else iter(())
            features = [next(images) if row["image_ids"] else None for row in batch]
            labels = [(row["risk_type"], row["risk_level"]) for row in batch]
            answers += respond(features, [question_of(row) for row in batch], labels)
            tick(len(answers), "items")
    return answers


def _coming(rows: list[dict[str, Any]], first: int, count: int) -> list[str]:
    """The images of `count` rows."""
    return [row["image_ids"][0] for row in rows[first : first + count] if row["image_ids"]]


def judged_item(row: dict[str, Any], answer: "Answer", judge: Judge) -> dict[str, Any]:
    """One row of `items.parquet`: the item, the answer, what the judge and the guard made of it."""
    extra = json.loads(row["extra"] or "{}")
    kept = ("sample_id", "source", "group_id", "risk_type", "risk_level")
    seen = answer.verdict
    return {
        **{name: row[name] for name in kept},
        "image_id": row["image_ids"][0] if row["image_ids"] else None,
        "near_miss": str(extra.get("near_miss")).lower() in YES,
        "style": str(extra.get("style", "")),
        "question": question_of(row),
        "reference": reference(row),
        "answer": answer.text,
        **judge.judge(row, answer.text),
        "flagged": seen.flagged if seen else None,
        "risk": seen.risk if seen else None,
        "seen_type": max(seen.type_probs, key=seen.type_probs.__getitem__) if seen else None,
        "seen_level": _most(list(seen.level_probs.values())) if seen else None,
    }


def _most(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
