"""`psavlm compare` and `history`: which of two models is safer, and how all versions have fared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import DEFAULT_ROOT, NAMES, Items, Json, Preset, Root
from flows.cli.start import ready
from flows.cli.terminal import console

if TYPE_CHECKING:
    from infra.store import Store
    from schemas.artifact import Artifact
    from schemas.comparison import Comparison

WIDTH = 120


def register(app: typer.Typer) -> None:
    """Add the sub-commands."""
    app.command("compare", epilog="Example: psavlm compare previous champion")(compare)
    app.command("history", epilog="Example: psavlm history --json")(history)


def compare(  # noqa: PLR0913 - the options are the flow's parameters
    old: Annotated[str, typer.Argument(help=f"The model compared with: {NAMES}.")],
    new: Annotated[str, typer.Argument(help="The model in question, named in the same ways.")],
    items: Items = "",
    preset: Preset = "tiny",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Say whether NEW is safer than OLD on the same items, and what it costs; one page."""
    from flows.comparing import compare_sides
    from flows.line import plainly
    from flows.told import told as tell
    from tasks.compare import read_comparison

    with ready(preset, root) as (config, store):
        made = compare_sides((old, new), items, config, do=tell(plainly), store=store)
    page = made["compare"]
    told = read_comparison(page, store=store)
    if json:
        typer.echo(told.model_dump_json())
    else:
        _verdict(told, page, store)


def history(
    items: Items = "", preset: Preset = "tiny", root: Root = DEFAULT_ROOT, json: Json = False
) -> None:
    """Ask all registered versions the same items: a table and a plot over time."""
    from flows.comparing import compare_versions
    from flows.line import plainly
    from flows.told import told
    from infra.registry import Registry
    from tasks.compare import read_past

    with ready(preset, root) as (config, store):
        do, versions = told(plainly), Registry().versions()
        page = compare_versions(versions, items, config, do=do, store=store)
    if json:
        typer.echo(read_past(page, store=store).model_dump_json())
        return
    typer.echo((store.local(page) / f"{page.step}.md").read_text(encoding="utf-8"))
    _places(page, store)


def _verdict(told: "Comparison", page: "Artifact", store: "Store") -> None:
    """Verdict, price and the rates of all items; the rest is on the page."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from schemas.report import LOWER
    from tasks.compare.page import table_for_page
    from tasks.compare.words import remarks

    terminal = console(WIDTH)
    for line in (f"{told.verdict}: {told.new.name} against {told.old.name}", told.sentence):
        terminal.print(line, soft_wrap=True, markup=False)
    for line in filter(None, (told.price, remarks(told.old, told.new))):
        terminal.print(line, soft_wrap=True, markup=False)
    rows = table_for_page(page, store=store)
    title = f"{told.n} held-out items, in %; differences in points with 95 % intervals"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "rate" else "right")
    for row in rows:
        table.add_row(*(str(cell).replace(LOWER, " \u2193") for cell in row.values()))
    terminal.print(table)
    _places(page, store)


def _places(page: "Artifact", store: "Store") -> None:
    folder: Path = store.local(page)
    for end in ("html", "md", "json"):
        typer.echo(folder / f"{page.step}.{end}")
