"""The step itself: read what a run has made, and write the page, its Markdown, plots, numbers."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import ReportConfig
from schemas.frozen import Frozen
from tasks.base_model import libraries
from tasks.report.inputs import ReportInputs

VERSION = 7
PAGE, TEXT, NUMBERS, PLOTS = "report.html", "report.md", "numbers.json", "plots"


class PageTables(Frozen):
    """A report for a run's page: rows of plain cells, and the text without its plots."""

    headline: list[dict[str, str]]
    data: list[dict[str, str]]
    orders: list[dict[str, str]]
    markdown: str


def report(config: ReportConfig, inputs: ReportInputs, *, store: Store) -> Artifact:
    """`report.html` (one file for everything), `report.md`, `plots/*.svg` and `numbers.json`.

    What the run has not made is left out. Nothing in the files depends on when or where they are
    written; the provenance is that of the artifacts at the time.

    Args:
        config: how many images, and whether they are blurred.
        inputs: the artifacts of the run.
        store: where artifacts live.
    """
    drawn_by = {n: version(n) for n in ("matplotlib", "jinja2", "pillow", "numpy", "scipy")}
    return store.artifact(
        "report",
        VERSION,
        config=config,
        parents=inputs.parents(),
        inputs={**libraries(), **drawn_by},
        build=lambda folder: _build(config, inputs, store, folder),
    )


def tables_for_page(artifact: Artifact, *, store: Store) -> PageTables:
    """A report artifact's tables and its Markdown."""
    from tasks.report.markdown import data_table, headline_table, markdown, orders_table

    numbers: dict[str, Any] = json.loads((store.local(artifact) / NUMBERS).read_bytes())
    return PageTables(
        headline=headline_table(numbers),
        data=data_table(numbers),
        orders=orders_table(numbers),
        markdown=markdown(numbers),
    )


def _build(
    config: ReportConfig, inputs: ReportInputs, store: Store, folder: Path
) -> dict[str, int]:
    from tasks.report.collect import collect
    from tasks.report.depth_plots import draw_depth
    from tasks.report.markdown import markdown
    from tasks.report.page import page
    from tasks.report.plots import draw

    # What nobody has decided on is hidden.
    config = ReportConfig.model_validate({**dict(config), "blur": config.blur is not False})
    contents = collect(config, inputs, store)
    charts = draw(contents.numbers, contents.curves) | draw_depth(contents.numbers)
    (folder / PLOTS).mkdir()
    for name, svg in charts.items():
        (folder / PLOTS / f"{name}.svg").write_text(svg, encoding="utf-8")
    for name, data in contents.pictures.items():
        if name.startswith("heat"):
            (folder / PLOTS / f"{name}.png").write_bytes(data)
    written = json.dumps(contents.numbers, indent=1, ensure_ascii=False)
    (folder / NUMBERS).write_text(f"{written}\n", encoding="utf-8")
    html = page(contents.numbers, charts, contents.pictures)
    (folder / PAGE).write_text(html, encoding="utf-8")
    text = markdown(contents.numbers, plots=[f"{PLOTS}/{name}.svg" for name in charts])
    (folder / TEXT).write_text(text, encoding="utf-8")
    return {"arms": len(inputs.evaluations), "charts": len(charts)}
