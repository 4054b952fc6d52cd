"""What a sweep's page shows beside its points: the table, the report, the plot."""

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from infra.store import Store
from schemas.artifact import Artifact
from tasks.sweep.step import plot_data, read_text, table_for_page


def show_sweep(table: Artifact, store: Store) -> None:
    """Table, report and plot of a finished sweep as Prefect artifacts; the plot is in its address.

    Prefect shows an image by its address alone, and a store's files have none that a browser opens.
    """
    rows = table_for_page(table, store=store)
    create_table_artifact(key="sweep-table", table=rows, description="Held-out items, in %")
    plot = plot_data(table, store=store)
    create_image_artifact(key="sweep-plot", image_url=plot, description="Over the ratio")
    told = read_text(table, store=store)
    create_markdown_artifact(key="sweep", markdown=told, description="The sweep and its files")
