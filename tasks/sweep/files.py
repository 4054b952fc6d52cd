"""The files of a table artifact (a sweep's, an ablation's), which are named after its step."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from infra.store import Store
from schemas.artifact import Artifact

TABLE, CSV, TEXT, LATEX, PAGE = ".parquet", ".csv", ".md", ".tex", ".html"


def write_table(lines: Iterable[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    """The same rows as Parquet and as CSV; `path` is without its ending."""
    table = pa.Table.from_pylist(list(lines), schema=schema)
    pq.write_table(table, path.with_suffix(TABLE))
    pyarrow.csv.write_csv(table, path.with_suffix(CSV))


def opened_first(artifact: Artifact, *, store: Store) -> list[Path]:
    """What people open first, in that order."""
    folder = store.local(artifact)
    files = [folder / f"{artifact.step}{end}" for end in (TABLE, CSV, TEXT, LATEX, PAGE)]
    return [file for file in [*files, folder / "plot.png"] if file.exists()]


def read_rows(artifact: Artifact, *, store: Store) -> pa.Table:
    """The table, all columns."""
    return pq.read_table(store.local(artifact) / f"{artifact.step}{TABLE}")


def read_text(artifact: Artifact, *, store: Store) -> str:
    """The Markdown page."""
    return (store.local(artifact) / f"{artifact.step}{TEXT}").read_text(encoding="utf-8")


def plot_data(artifact: Artifact, *, store: Store) -> str:
    """The wide plot as a `data:` address."""
    svg = (store.local(artifact) / "plot.svg").read_bytes()
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def percent(share: float | None) -> float | None:
    """A share as a page's table shows it."""
    return None if share is None else round(100 * share, 1)
