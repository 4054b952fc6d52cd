"""`psavlm sources`: what can be read, with one example each."""

import json as jsonlib
import sys
from typing import TYPE_CHECKING

import typer

from flows.cli.options import Json
from flows.cli.terminal import console

if TYPE_CHECKING:
    from tasks.sources import Reader

WIDTH = 120
OWN = (
    "licence: that of the published set; - where none is stated, or the data are yours (name it "
    "with licence=). A table of other columns: format=table with columns.<field>=<column>. A data "
    "set that others shall read too: a format file (.toml), given as format=path/to/mine.toml"
)


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    app.command("sources", epilog="Example: psavlm sources --json")(sources)


def sources(json: Json = False) -> None:
    """List the formats that --source reads: what each is, its labels, licence and an example."""
    from tasks.sources import formats, reader_named

    found = {name: reader_named(name) for name in formats()}
    if not json:
        _show(found)
        return
    lines = [
        {
            "format": name,
            "about": reader.about,
            "labels": reader.labels,
            "licence": reader.licence,
            "evaluation_only": reader.evaluation_only,
            "example": reader.example,
        }
        for name, reader in found.items()
    ]
    sys.stdout.write(jsonlib.dumps({"formats": lines}) + "\n")


def _show(found: "dict[str, Reader]") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    terminal = console(WIDTH)
    table = Table(title="formats", title_justify="left", box=SIMPLE_HEAD)
    for column in ("format", "what it reads", "labels", "licence"):
        table.add_column(column, overflow="fold", no_wrap=column == "format")
    for name, reader in found.items():
        use = ", evaluation only" if reader.evaluation_only else ""
        licence = reader.licence or "-"
        table.add_row(name, reader.about, reader.labels, licence + use)
    terminal.print(table)
    # Below the table, not in it: a folded line cannot be copied.
    for reader in found.values():
        terminal.print(f"  psavlm ingest --source '{reader.example}'", soft_wrap=True)
    terminal.print()
    terminal.print(OWN, soft_wrap=True)
