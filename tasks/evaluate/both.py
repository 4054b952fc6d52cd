"""Evaluate a guard at every threshold: each item answered with the guard silent and with it acting.

An answer depends on whether the guard acts and not on why, so that two answers an item and its risk
score are the whole trade of risky requests obeyed against benign ones refused.
"""

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.answers import AnswerCache
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from tasks.evaluate.judging import Judge
from tasks.evaluate.kept import answered_once
from tasks.evaluate.question import Question
from tasks.evaluate.step import ITEMS, as_evaluated, held_out_rows, judged_item
from tasks.progress import progress

STEP, VERSION = "evaluate_both_ways", 1


def evaluate_both_ways(
    config: EvaluateConfig,
    base: Artifact,
    labelled: Artifact,
    features: Artifact,
    model: Artifact,
    *,
    store: Store,
) -> Artifact:
    """`items.parquet`: a judged row per item and way (column `way`: silent, acting).

    Killed and run again it asks nothing that has been answered.

    Args:
        config: answers and judging.
        base: the base model.
        labelled: its test split is what is asked.
        features: the encoder's features of the same images.
        model: a trained stage with a head.
        store: where artifacts live.

    Raises:
        DataError: no test items.
    """
    parents = {"base": base, "labelled": labelled, "features": features, "model": model}
    return answered_once(
        STEP,
        VERSION,
        partial(_build, config, parents, store),
        config=config.model_dump(),
        parents=parents,
        inputs=as_evaluated(config),
        store=store,
    )


def read_both_ways(artifact: Artifact, *, store: Store) -> pa.Table:
    """The judged rows, each item twice."""
    return pq.read_table(store.local(artifact) / ITEMS)


def _build(
    config: EvaluateConfig,
    parents: dict[str, Artifact],
    store: Store,
    kept: AnswerCache,
    folder: Path,
) -> dict[str, int]:
    from tasks.evaluate.operate import Operator

    rows = held_out_rows(store.local(parents["labelled"]))
    operator = Operator.of(config, parents, store, kept)
    asked = [Question.of(row) for row in rows]
    with progress(f"evaluate {parents['model'].step} both ways", len(rows)) as tick:
        ways = operator.both_ways(asked, max_new_tokens=config.max_new_tokens, tick=tick)
    judge = Judge.of(rows, config.refusal_markers)
    judged = [
        {"way": way, **judged_item(row, answer, judge)}
        for way, answers in ways.items()
        for row, answer in zip(rows, answers, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(judged), folder / ITEMS)
    return {"items": len(rows), "ways": len(ways)}
