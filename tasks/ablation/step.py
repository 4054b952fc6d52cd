"""The step: judged rows of all methods and seeds -> one table in five formats, a plot, a page."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra.store import Store
from schemas.ablation import ABLATION_METRICS, AblationParameters, MethodPoint, label
from schemas.artifact import Artifact
from schemas.config import NOTHING, EvaluateConfig
from tasks.ablation.equal import equal_rows, equal_schema, flat_equal
from tasks.ablation.held_out import flat_held_out, held_out_rows, held_out_schema
from tasks.ablation.table import Tables, ablation_rows, flat, table_schema
from tasks.evaluate.step import ITEMS
from tasks.sweep.files import LATEX, PAGE, TEXT, percent, read_rows, write_table

STEP, VERSION = "ablation", 3


def ablation_table(
    asked: AblationParameters,
    config: EvaluateConfig,
    points: Sequence[MethodPoint],
    *,
    store: Store,
) -> Artifact:
    """`ablation.parquet`, `.csv`, `.md`, `.tex`, `.html`, and the plot as PNG and SVG.

    Beside them, where there are any, `equal` (guards at equal attack success) and `held-out` (what
    was not learnt from) as Parquet and CSV.

    Args:
        asked: methods and seeds.
        config: draws and seed of the intervals.
        points: all methods and seeds; failed ones are rows without numbers.
        store: where artifacts live.
    """  # fmt: skip
    evaluated = {p.name: p.evaluated for p in points if p.evaluated is not None}
    both_ways = {
        f"{p.name} {stage} both ways": both for p in points for stage, both in p.both_ways.items()
    }
    settings = {
        "methods": {p.method: p.parts.model_dump(mode="json") for p in points},
        "order": [label(method) for method in asked.methods],
        "seeds": asked.seeds,
        "intervals": {"bootstrap": config.bootstrap, "seed": config.seed},
        "held_out": [*asked.hold_out_sources, *asked.hold_out_types],
        "failed": {p.name: p.error for p in points if p.error},
    }

    def build(folder: Path) -> dict[str, int]:
        judged = {
            found.fingerprint: pq.read_table(store.local(found) / ITEMS)
            for found in (*evaluated.values(), *both_ways.values())
        }
        whole = [point for point in points if point.held_out == NOTHING]
        tables = Tables(
            ablation_rows(whole, judged, config),
            equal_rows(whole, judged, config),
            held_out_rows(points, judged, config),
        )
        write(tables, folder)
        return {"points": len(points), "failed": len(settings["failed"]), "rows": len(tables.rows)}

    return store.artifact(
        STEP,
        VERSION,
        config=settings,
        parents={**evaluated, **both_ways},
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


def write(tables: Tables, folder: Path) -> None:
    """All files of the artifact into an empty folder."""
    from tasks.ablation.latex import latex_table
    from tasks.ablation.page import document
    from tasks.ablation.plot import LAYOUTS, draw
    from tasks.sweep.document import as_html, as_markdown

    path, told, rows = folder / STEP, document(tables), tables.rows
    write_table(map(flat, rows), table_schema(), path)
    if tables.equal:
        write_table(map(flat_equal, tables.equal), equal_schema(), folder / "equal")
    if tables.held_out:
        write_table(map(flat_held_out, tables.held_out), held_out_schema(), folder / "held-out")
    draw(rows, folder)
    path.with_suffix(TEXT).write_text(as_markdown(told), encoding="utf-8")
    path.with_suffix(LATEX).write_text(latex_table(rows), encoding="utf-8")
    path.with_suffix(PAGE).write_text(as_html(told, LAYOUTS, folder), encoding="utf-8")
