"""`psavlm compare` and `history`: which of two models is safer, and how all versions have fared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import DEFAULT_ROOT, NAMES, Items, Json, Preset, Root
from flows.cli.start import ready

if TYPE_CHECKING:
    from infra.store import Store
    from schemas.artifact import Artifact


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
    from flows.told import told
    from tasks.compare import read_comparison

    with ready(preset, root) as (config, store):
        made = compare_sides((old, new), items, config, do=told(plainly), store=store)
    page = made["compare"]
    if json:
        typer.echo(read_comparison(page, store=store).model_dump_json())
    else:
        _show(page, store)


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
    else:
        _show(page, store)


def _show(page: "Artifact", store: "Store") -> None:
    """The Markdown page, and where the files are."""
    folder: Path = store.local(page)
    typer.echo((folder / f"{page.step}.md").read_text(encoding="utf-8"))
    for end in ("html", "md", "json"):
        typer.echo(folder / f"{page.step}.{end}")
