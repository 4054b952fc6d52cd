"""What the page of a sweep or an ablation shows beside its points: table, report and plot."""

from collections.abc import Sequence
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from flows.page import link_pages
from infra.store import Store
from schemas.artifact import Artifact
from tasks.sweep.files import plot_data, read_text


def show_table(table: Artifact, rows: Sequence[dict[str, Any]], store: Store) -> str:
    """Rows, report and plot of a finished comparison as Prefect artifacts named after its step.

    The plot is in its address: Prefect shows an image by its address alone, and a store's files
    have none that a browser opens. For the same reason the report is shown without it.

    Returns:
        The address of MLflow's page, empty if there is none.
    """
    name = table.step
    create_table_artifact(key=f"{name}-table", table=list(rows), description="Held-out items, in %")
    plot = plot_data(table, store=store)
    create_image_artifact(key=f"{name}-plot", image_url=plot, description="Obeyed and refused")
    lines = read_text(table, store=store).splitlines(keepends=True)
    told = "".join(line for line in lines if not line.startswith("!["))
    create_markdown_artifact(key=name, markdown=told, description="The table and its files")
    return link_pages()
