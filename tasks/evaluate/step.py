"""Evaluate: one arm (base, after stage 1, after stage 2) on the held-out items of a snapshot."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.answers import AnswerCache
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
from tasks.base_model import libraries
from tasks.evaluate.asking import Arm, Oracle, ask_all
from tasks.evaluate.judging import Judge, reference
from tasks.evaluate.kept import answered_once
from tasks.evaluate.metrics import arm_report
from tasks.evaluate.question import Question, prompt_hash, question_of

if TYPE_CHECKING:
    from model.guard import Answer

VERSION = 5
YES = ("true", "yes", "1")  # a table's cells are text
STEP, ITEMS, REPORT = "evaluate", "items.parquet", "report.json"


def evaluate(  # noqa: PLR0913 - four artifacts that each may be another one
    config: EvaluateConfig,
    arm: str,
    base: Artifact,
    labelled: Artifact,
    features: Artifact,
    *,
    store: Store,
    model: Artifact | MethodConfig | None = None,
    cluster: str = "",
) -> Artifact:
    """`items.parquet` (one judged row per item) and `report.json` (ArmReport) of one arm.

    Killed and run again it asks nothing that has been answered.

    Args:
        config: batch, answer length, intervals.
        arm: its name in tables.
        base: the base model; alone it is the arm that the others are compared with.
        labelled: its test split is what is asked.
        features: the encoder's features of the same images; nothing is encoded twice.
        store: where artifacts live.
        model: a trained stage, answered with its guard; or a method without training, whose hints
            the base is given by the items' own labels; None for the base as it is.
        cluster: address of a Ray cluster for several workers; empty is that of `psavlm up`, or one
            of this process's own.

    Raises:
        DataError: no test items.
        ServerError: a process that answers has died again and again.
    """
    parents = {"base": base, "labelled": labelled, "features": features}
    taxonomy, oracle = load_taxonomy(config.taxonomy), None
    policy = operators_policy(config.policy, taxonomy=taxonomy)
    inputs = _hashed(taxonomy=taxonomy, policy=policy)
    if isinstance(model, Artifact):
        parents["model"] = model
    elif model is not None:
        oracle = Oracle(model, load_hints(model.hints, taxonomy=taxonomy))
        inputs |= _hashed(hints=oracle.hints)
    settings = {"arm": arm, **config.model_dump()}
    asked = Arm(arm, config, parents, store, taxonomy, policy, oracle)
    return answered_once(
        STEP,
        VERSION,
        partial(_evaluate, asked, cluster=cluster),
        config=settings,
        parents=parents,
        inputs=inputs,
        store=store,
    )


def as_evaluated(config: EvaluateConfig) -> dict[str, str]:
    """The inputs, by their hashes, of another step that asks and judges items as this one does."""
    taxonomy = load_taxonomy(config.taxonomy)
    policy = operators_policy(config.policy, taxonomy=taxonomy)
    return {STEP: str(VERSION), **_hashed(taxonomy=taxonomy, policy=policy)}


def _hashed(**told: Any) -> dict[str, str]:
    """What is read from files, by its hash, and the libraries that compute."""
    return {**{name: content_hash(part) for name, part in told.items()}, **libraries()}


def read_report(artifact: Artifact, *, store: Store) -> ArmReport:
    """The numbers of an evaluate artifact."""
    return ArmReport.model_validate_json((store.local(artifact) / REPORT).read_bytes())


def _evaluate(asked: Arm, kept: AnswerCache, folder: Path, *, cluster: str) -> dict[str, int]:
    config = asked.config
    rows = held_out_rows(asked.store.local(asked.parents["labelled"]))
    answers = ask_all(asked, [Question.of(row) for row in rows], kept, cluster=cluster)
    judge = Judge.of(rows, config.refusal_markers)
    judged = [judged_item(row, answer, judge) for row, answer in zip(rows, answers, strict=True)]
    report = arm_report(asked.name, judged, config, asked.taxonomy)
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


def judged_item(row: dict[str, Any], answer: "Answer", judge: Judge) -> dict[str, Any]:
    """One row of `items.parquet`: the item, the answer, what the judge and the guard made of it."""
    extra = json.loads(row["extra"] or "{}")
    kept = ("sample_id", "source", "group_id", "risk_type", "risk_level")
    seen, question = answer.verdict, Question.of(row)
    return {
        **{name: row[name] for name in kept},
        "image_id": question.image_id,
        "near_miss": str(extra.get("near_miss")).lower() in YES,
        "style": str(extra.get("style", "")),
        "prompt_hash": prompt_hash(question.text, question.image_id),
        "question": question.text,
        "reference": reference(row),
        "answer": answer.text,
        **judge.judge(row, answer.text),
        "flagged": seen.flagged if seen else None,
        "risk": seen.risk if seen else None,
        "seen_type": max(seen.type_probs, key=seen.type_probs.__getitem__) if seen else None,
        "seen_level": _most(list(seen.level_probs.values())) if seen else None,
        "type_probabilities": seen.type_probs if seen else None,
        "level_probabilities": seen.level_probs if seen else None,
    }


def _most(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
