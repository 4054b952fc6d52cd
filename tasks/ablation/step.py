"""The step: judged rows of all methods and seeds -> one table in five formats, a plot, a page."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra.store import Store
from schemas.ablation import ABLATION_METRICS, AblationParameters, AblationRow, MethodPoint, label
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from tasks.ablation.table import ablation_rows, flat, table_schema
from tasks.evaluate.step import ITEMS
from tasks.sweep.files import LATEX, PAGE, TEXT, percent, read_rows, write_table

STEP, VERSION = "ablation", 1


def ablation_table(
    asked: AblationParameters,
    config: EvaluateConfig,
    points: Sequence[MethodPoint],
    *,
    store: Store,
) -> Artifact:
    """`ablation.parquet`, `.csv`, `.md`, `.tex`, `.html`, and the plot as PNG and SVG.

    Args:
        asked: methods and seeds.
        config: draws and seed of the intervals.
        points: all methods and seeds; failed ones are rows without numbers.
        store: where artifacts live.
    """  # fmt: skip
    evaluated = {f"{p.method}/{p.seed}": p.evaluated for p in points if p.evaluated is not None}
    settings = {
        "methods": {p.method: p.parts.model_dump(mode="json") for p in points},
        "order": [label(method) for method in asked.methods],
        "seeds": asked.seeds,
        "intervals": {"bootstrap": config.bootstrap, "seed": config.seed},
        "failed": {f"{p.method}/{p.seed}": p.error for p in points if p.error},
    }

    def build(folder: Path) -> dict[str, int]:
        judged = {
            found.fingerprint: pq.read_table(store.local(found) / ITEMS)
            for found in evaluated.values()
        }
        rows = ablation_rows(points, judged, config)
        write(rows, folder)
        return {"points": len(points), "failed": len(settings["failed"]), "rows": len(rows)}

    return store.artifact(
        STEP,
        VERSION,
        config=settings,
        parents=evaluated,
        inputs={name: version(name) for name in ("matplotlib", "numpy")},
        build=build,
    )


def table_for_page(artifact: Artifact, *, store: Store) -> list[dict[str, Any]]:
    """One dict per method, over all seeds, in %; and what failed."""
    rows = read_rows(artifact, store=store).to_pylist()
    return [
        {name: row[name] for name in ("method", "seeds", "error")}
        | {name: percent(row[name]) for name in ABLATION_METRICS}
        for row in rows
        if row["seed"] is None or row["error"]
    ]


def write(rows: Sequence[AblationRow], folder: Path) -> None:
    """All files of the artifact into an empty folder."""
    from tasks.ablation.latex import latex_table
    from tasks.ablation.page import document
    from tasks.ablation.plot import LAYOUTS, draw
    from tasks.sweep.document import as_html, as_markdown

    path, told = folder / STEP, document(rows)
    write_table(map(flat, rows), table_schema(), path)
    draw(rows, folder)
    path.with_suffix(TEXT).write_text(as_markdown(told), encoding="utf-8")
    path.with_suffix(LATEX).write_text(latex_table(rows), encoding="utf-8")
    path.with_suffix(PAGE).write_text(as_html(told, LAYOUTS, folder), encoding="utf-8")
