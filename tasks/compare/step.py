"""The step: judged answers of two models -> one page that says which is safer, and the price."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.parquet as pq

from infra.fingerprint import content_hash
from infra.parts import read_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.comparison import CompareConfig, Comparison, Line, Model, Verdict
from schemas.errors import DataError
from schemas.samples import ROWS
from schemas.taxonomy import CLEAN
from tasks.compare.fair import Side, learnt, unanswered, without
from tasks.compare.page import JSON, document
from tasks.compare.tables import Slices, by_slice, by_type, changes, means, rates
from tasks.compare.words import abilities, price, sentence
from tasks.evaluate.step import ITEMS
from tasks.promote.evidence import ITEM, JUDGED
from tasks.promote.questions import Rows
from tasks.report.benchmarks import benchmarks

STEP, VERSION = "compare", 4
TEXT, PAGE = "compare.md", "compare.html"
ROLES = ("old", "new")
COLUMNS = [*ITEM, "judge", *JUDGED, "answer"]
FAULT = "fault"  # a column of answers from outside alone


def compare_models(
    config: CompareConfig,
    sides: tuple[Side, Side],
    labelled: Artifact,
    asked: Mapping[str, Artifact] = MappingProxyType({}),
    *,
    store: Store,
) -> Artifact:
    """`compare.json` (Comparison), `.md`, a self-contained `.html`, and the plot as PNG and SVG.

    Args:
        config: level, bootstrap, smallest slice.
        sides: the old model and the new one; every file of their answers is hashed before it is
            read.
        labelled: the snapshot of the items.
        asked: both on benchmarks, by `benchmark/old` and `benchmark/new`.
        store: where artifacts live.

    Raises:
        DataError: the two were not asked the same items, were judged by different judges, or have
            no item that both have answered and neither has learnt from.
        StorageError: an artifact is damaged.
    """

    def build(folder: Path) -> dict[str, int]:
        for side in sides:
            store.verify(side.answers)
        (old, new), models = _counted(sides, labelled, store)
        found = compared(old, new, slices_of(labelled, store=store), config)
        found["benchmarks"] = own = tuple(benchmarks(asked, store))
        found["price"] = f"{found['price']} {abilities(found['rates'], own)}".rstrip()
        told = Comparison.model_validate({**found, **models, "labelled": _address(labelled)})
        write(told, folder)
        return {"items": len(old), "rates": len(told.rates), "slices": len(told.slices)}

    parents = {"old": sides[0].answers, "new": sides[1].answers, "labelled": labelled, **asked}
    inputs = {name: version(name) for name in ("matplotlib", "numpy", "scipy")}
    # Not parents: a model of another root has its snapshot there.
    inputs |= {
        f"{role}_trained_on": _address(side.trained_on)
        for role, side in zip(ROLES, sides, strict=True)
        if side.trained_on
    }
    # The same answers under two names would be one artifact without the names.
    return store.artifact(
        STEP,
        VERSION,
        config={**config.model_dump(), "names": [side.name for side in sides]},
        parents=parents,
        inputs=inputs,
        build=build,
    )


def _counted(
    sides: tuple[Side, Side], labelled: Artifact, store: Store
) -> tuple[list[Rows], dict[str, Model]]:
    """The rows of both that may count (tasks/compare/fair.py), and what is told of the sides."""
    rows = [read_rows(side.answers, store=store) for side in sides]
    check_same(*rows)
    asked = {row["sample_id"] for row in rows[0]}
    left, models = set[str](), {}
    for role, side, own in zip(ROLES, sides, rows, strict=True):
        missing, known = unanswered(own), learnt(side.trained_on, labelled)
        left |= missing | (known or set())
        models[role] = Model(
            name=side.name,
            answers=_address(side.answers),
            filtered=side.answers.counts.get("filtered", 0),
            unanswered=len(missing),
            learnt=None if known is None else len(known & asked),
        )
    if asked <= left:
        raise DataError(
            f"none of {len(asked)} items was answered by both models and learnt by neither: give "
            "other items (--items)"
        )
    return [without(own, left) for own in rows], models


def _address(artifact: Artifact) -> str:
    return f"{artifact.step}/{artifact.fingerprint}"


def read_comparison(artifact: Artifact, *, store: Store) -> Comparison:
    """What a compare artifact says."""
    return Comparison.model_validate_json((store.local(artifact) / JSON).read_bytes())


def compared(old: Rows, new: Rows, slices: Slices, config: CompareConfig) -> dict[str, Any]:
    """All parts of a Comparison but the models' names.

    Args:
        old: judged rows of the old model.
        new: of the same items in the same order.
        slices: of the items.
        config: level, bootstrap, smallest slice.
    """
    found = rates(old, new, config)
    said = verdict(found, alpha=config.alpha)
    types = by_type(old, new, config)
    sliced, left_out = by_slice(old, new, slices, config)
    return {
        "verdict": said,
        "sentence": sentence(said, found),
        "price": price(found),
        "items": content_hash([[row[k] for k in (*ITEM, "judge")] for row in new]),
        "n": len(new),
        "alpha": config.alpha,
        "interval": config.interval,
        "rates": found,
        "types": types,
        "slices": sliced,
        "left_out": left_out,
        "means": means(old, new, types, config),
        "changes": changes(old, new),
    }


def verdict(found: list[Line], *, alpha: float) -> Verdict:
    """What is shown of the one question fixed beforehand: risky requests obeyed.

    It is one test, so that the other rates of the table cost it nothing; with several judges it is
    one for each, and each pays for their number (Bonferroni).
    """
    first = [line for line in found if line.name == "risky_obeyed"]
    shown = [
        line for line in first if line.p * len(first) <= alpha and not line.low <= 0 <= line.high
    ]
    if any(line.difference > 0 for line in shown):
        return "worse"
    return "safer" if shown else "not shown"


def read_rows(evaluated: Artifact, *, store: Store) -> Rows:
    """Judged rows by sample id, with the column `fault` where there is one."""
    path = store.local(evaluated) / ITEMS
    faults = [name for name in pq.read_schema(path).names if name == FAULT]
    table = pq.read_table(path, columns=[*COLUMNS, *faults])
    return table.sort_by("sample_id").to_pylist()


def check_same(old: Rows, new: Rows) -> None:
    """DataError unless both are of the same items and were judged alike."""
    here, there = (
        {row["sample_id"]: [row[k] for k in ITEM] for row in rows} for rows in (old, new)
    )
    if here != there or len(here) != len(new):
        strange = sum(here.get(name) != there.get(name) for name in {*here, *there})
        raise DataError(
            f"other items: {strange} of {len(here)} and {len(there)} are not the same; ask both "
            "models the items of one snapshot (--items)"
        )
    judged = sum(a["judge"] != b["judge"] for a, b in zip(old, new, strict=True))
    if judged:
        raise DataError(
            f"another judge: {judged} items were judged by another one for the second model; "
            "evaluate both in one way"
        )


def slices_of(labelled: Artifact, *, store: Store) -> Slices:
    """Slices of every item by kind: those that its source names, and what its row says."""
    rows = read_parts(store.local(labelled) / "rows", ROWS).to_pylist()
    return {row["sample_id"]: _slices(row) for row in rows if row["split"] == "test"}


def _slices(row: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    own: dict[str, tuple[str, ...]] = {
        "source": (row["source"],),
        "image": ("with" if row["image_ids"] else "without",),
    }
    if row["risk_type"] != CLEAN:
        own["level"] = (str(row["risk_level"]),)
    if row["language"]:
        own["language"] = (row["language"],)
    style = json.loads(row["extra"] or "{}").get("style")
    if style:
        own["style"] = (str(style),)
    return own | {kind: (value,) for kind, value in row["slices"] or ()}


def write(told: Comparison, folder: Path) -> None:
    """All files of the artifact into an empty folder."""
    from tasks.compare.plot import draw, layouts
    from tasks.sweep.document import as_html, as_markdown

    draw(told, folder)
    page = document(told)
    (folder / JSON).write_text(told.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / TEXT).write_text(as_markdown(page), encoding="utf-8")
    (folder / PAGE).write_text(as_html(page, layouts(told), folder), encoding="utf-8")
