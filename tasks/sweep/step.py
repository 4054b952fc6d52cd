"""The step: judged rows of all points -> the table (Parquet, CSV, Markdown), the plot, a page."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from schemas.sweep import SWEEP_METRICS, SweepParameters, SweepPoint, SweepRow
from tasks.evaluate.points import read_points
from tasks.sweep.files import PAGE, TEXT, percent, read_rows, write_table
from tasks.sweep.table import flat, sweep_rows, table_schema

STEP, VERSION = "sweep", 2


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
        STEP,
        VERSION,
        config=settings,
        parents=evaluated,
        inputs={name: version(name) for name in ("matplotlib", "numpy")},
        build=build,
    )


def table_for_page(artifact: Artifact, *, store: Store) -> list[dict[str, Any]]:
    """One dict per ratio, stage and operating point, over all seeds, in %; and failed points."""
    rows = read_rows(artifact, store=store).to_pylist()
    shown = ("ratio", "stage", "point", "seeds", "pareto", "error")
    return [
        {name: row[name] for name in shown} | {name: percent(row[name]) for name in SWEEP_METRICS}
        for row in rows
        if row["seed"] is None or row["error"]
    ]


def write(rows: Sequence[SweepRow], sweep: SweepParameters, folder: Path) -> None:
    """All files of the artifact into an empty folder."""
    from tasks.sweep.page import html_page, markdown_page
    from tasks.sweep.plot import draw

    path = folder / STEP
    write_table(map(flat, rows), table_schema(), path)
    draw(rows, sweep, folder)
    path.with_suffix(TEXT).write_text(markdown_page(rows, sweep), encoding="utf-8")
    path.with_suffix(PAGE).write_text(html_page(rows, sweep, folder), encoding="utf-8")
