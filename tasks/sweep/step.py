"""The step: judged rows of all points -> the table (Parquet, CSV, Markdown), the plot, a page."""

import base64
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from schemas.sweep import SWEEP_METRICS, SweepParameters, SweepPoint, SweepRow
from tasks.evaluate.points import read_points
from tasks.sweep.table import flat, sweep_rows, table_schema

VERSION = 1
TABLE, CSV, TEXT, PAGE = "sweep.parquet", "sweep.csv", "sweep.md", "sweep.html"
FILES = (TABLE, CSV, TEXT, PAGE, "plot.png")  # what people open first


def sweep_table(
    sweep: SweepParameters, config: EvaluateConfig, points: Sequence[SweepPoint], *, store: Store
) -> Artifact:
    """`sweep.parquet`, `.csv`, `.md`, `.html`, and the plot, wide and narrow, as PNG and SVG.

    Args:
        sweep: ratios, seeds, and the rate that was matched.
        config: draws and seed of the intervals.
        points: all points; failed ones are rows without numbers.
        store: where artifacts live.
    """
    evaluated = {
        f"{point.ratio!r}/{point.seed}/{stage}": result.evaluated
        for point in points
        for stage, result in point.stages.items()
    }
    settings = {
        **sweep.model_dump(mode="json"),
        "intervals": {"bootstrap": config.bootstrap, "seed": config.seed},
        "failed": {f"{p.ratio!r}/{p.seed}": p.error for p in points if p.error},
    }

    def build(folder: Path) -> dict[str, int]:
        judged = {a.fingerprint: read_points(a, store=store) for a in evaluated.values()}
        rows = sweep_rows(points, judged, config)
        write(rows, sweep, folder)
        return {"points": len(points), "failed": len(settings["failed"]), "rows": len(rows)}

    return store.artifact(
        "sweep",
        VERSION,
        config=settings,
        parents=evaluated,
        inputs={name: version(name) for name in ("matplotlib", "numpy")},
        build=build,
    )


def read_rows(artifact: Artifact, *, store: Store) -> pa.Table:
    """The table of a sweep artifact (tasks/sweep/table.py names the columns)."""
    return pq.read_table(store.local(artifact) / TABLE)


def read_text(artifact: Artifact, *, store: Store) -> str:
    """The Markdown page of a sweep artifact."""
    return (store.local(artifact) / TEXT).read_text(encoding="utf-8")


def plot_data(artifact: Artifact, *, store: Store) -> str:
    """The wide plot as a `data:` address."""
    svg = (store.local(artifact) / "plot.svg").read_bytes()
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def table_for_page(artifact: Artifact, *, store: Store) -> list[dict[str, Any]]:
    """One dict per ratio, stage and operating point, over all seeds, in %; and failed points."""
    rows = read_rows(artifact, store=store).to_pylist()
    shown = ("ratio", "stage", "point", "seeds", "pareto", "error")
    return [
        {name: row[name] for name in shown} | {name: _percent(row[name]) for name in SWEEP_METRICS}
        for row in rows
        if row["seed"] is None or row["error"]
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 1)


def write(rows: Sequence[SweepRow], sweep: SweepParameters, folder: Path) -> None:
    """All files of the artifact into an empty folder."""
    from tasks.sweep.page import html_page, markdown_page
    from tasks.sweep.plot import draw

    table = pa.Table.from_pylist([flat(row) for row in rows], schema=table_schema())
    pq.write_table(table, folder / TABLE)
    pyarrow.csv.write_csv(table, folder / CSV)
    draw(rows, sweep, folder)
    (folder / TEXT).write_text(markdown_page(rows, sweep), encoding="utf-8")
    (folder / PAGE).write_text(html_page(rows, sweep, folder), encoding="utf-8")
