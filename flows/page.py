"""What a run's page shows beside its steps: tables, the report, and where the rest is."""

from typing import TYPE_CHECKING

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.logging import get_run_logger

from flows.told import in_words
from infra.registry import MODEL, Registry, page_address
from infra.servers import addresses
from infra.store import Store
from schemas.artifact import Artifact
from schemas.errors import StorageError
from tasks.report import tables_for_page

if TYPE_CHECKING:
    from flows.outcome import Outcome


def log(line: str) -> None:
    """One line among the run's logs."""
    get_run_logger().info(line)


def warn(line: str) -> None:
    """One warning among the run's logs; none for an empty line."""
    if line:
        get_run_logger().warning(line)


def show(outcome: "Outcome", store: Store, *, model: Artifact | None) -> None:
    """Tables, report, decision and links of a finished run as Prefect artifacts.

    Args:
        outcome: what the run has made.
        store: where artifacts live.
        model: the one that was registered; None where none was.
    """
    report = outcome.artifacts.get("report")
    if report is not None:
        _report(report, store)
    if outcome.decision is not None:
        create_markdown_artifact(key="decision", markdown=in_words(outcome.decision))
    mlflow = link_pages()
    if mlflow and model is not None:
        try:
            _model(model, mlflow)
        except StorageError as error:  # a link that is missing ends no finished run
            warn(f"no links to the model: {error}")


def link_pages() -> str:
    """Links to the servers' pages; returns the address of MLflow's, empty if there is none."""
    pages = {k: page for k, page in addresses().items() if page.startswith("http")}
    mlflow = page_address(pages.pop("mlflow", ""))
    for name, page in {**pages, **({"mlflow": mlflow} if mlflow else {})}.items():
        create_link_artifact(key=name, link=page, link_text=f"{name} page")
    return mlflow


def link_run(run: str, mlflow: str) -> None:
    """A link to the run in MLflow that holds a comparison's table and points."""
    if mlflow:
        link = f"{mlflow}{Registry().page(run)}"
        create_link_artifact(key="runs", link=link, link_text="the table and all points, in MLflow")


def _model(model: Artifact, mlflow: str) -> None:
    """Links to the model's run in MLflow: its report is shown there."""
    registry = Registry()
    version = registry.find(model.fingerprint)
    if version is not None:
        link = f"{mlflow}{registry.page(version.run)}/report/report.html"
        create_link_artifact(key="report-page", link=link, link_text="the report, in MLflow")
        link = f"{mlflow}/#/models/{MODEL}/versions/{version.version}"
        create_link_artifact(key="model", link=link, link_text=f"version {version.version}")


def _report(report: Artifact, store: Store) -> None:
    tables = tables_for_page(report, store=store)
    create_table_artifact(key="result", table=tables.headline, description="Held-out items, in %")
    create_table_artifact(key="data", table=tables.data, description="What became of the data")
    told = "Training order: items of an epoch, asked and achieved"
    create_table_artifact(key="orders", table=tables.orders, description=told)
    create_markdown_artifact(key="report", markdown=tables.markdown, description="The report")
