"""`psavlm gc`: what nobody needs any more, told or deleted."""

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import DEFAULT_ROOT, Json, Root
from flows.cli.settings import reach
from flows.cli.terminal import console
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from schemas.upkeep import Clearance, Garbage

WIDTH = 100
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
WORDS = {
    "attempt": "attempts that no manifest names",
    "unfinished": "artifacts whose builder is dead",
    "lease": "leases of dead builders",
    "checkpoints": "checkpoints of finished artifacts",
    "draft": "drafts of writes and downloads",
    "copy": "local copies of attempts that no manifest names",
    "shard": "images and features that no snapshot names",
}


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    app.command("gc", epilog="Example: psavlm gc --older-than 7d")(gc)


def gc(
    root: Root = DEFAULT_ROOT,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is found.")] = False,
    shards: Annotated[
        bool,
        typer.Option("--shards", help="With --delete: also images and features that are unused."),
    ] = False,
    older_than: Annotated[
        str, typer.Option(help="Leave alone what is younger: a number with s, m, h or d.")
    ] = "24h",
    json: Json = False,
) -> None:
    """Find what crashed and finished runs have left in a root; nothing is deleted by itself.

    Decisions, the registry, finished artifacts and what a living run is building stay as they are.
    """
    from infra.address import checked_address
    from infra.clearing import clearance
    from tasks.references import REFERENCES

    reach(root)
    told = clearance(
        checked_address(root),
        older_than_s=seconds(older_than),
        references=REFERENCES,
        delete=delete,
        shards=shards,
    )
    if json:
        sys.stdout.write(told.model_dump_json() + "\n")
    else:
        _show(told, delete=delete)


def seconds(text: str) -> float:
    """From `90s`, `30m`, `24h`, `7d` to seconds; ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not match:
        raise ConfigError(f"--older-than {text!r} is no age: give a number with s, m, h or d: 24h")
    return float(int(match[1]) * SECONDS[match[2]])


def _show(told: "Clearance", *, delete: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    terminal = console(WIDTH)
    if told.items:
        title = f"garbage in {told.root}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for name in ("kind", "count", "bytes", "what"):
            right = name in ("count", "bytes")
            table.add_column(name, justify="right" if right else "left", no_wrap=right)
        for kind, words in WORDS.items():
            if mine := [one for one in told.items if one.kind == kind]:
                table.add_row(kind, *_sums(mine), words)
        terminal.print(table)
    terminal.print(_verdict(told, delete=delete), soft_wrap=True)
    if told.left:
        left = ", ".join(f"{why} {number}" for why, number in told.left.items())
        terminal.print(f"left alone: {left}", soft_wrap=True)


def _verdict(told: "Clearance", *, delete: bool) -> str:
    if not told.items:
        return f"no garbage in {told.root}"
    if not delete:
        return "nothing was deleted: --delete does it (shards need --shards too); --json lists all"
    gone = [one for one in told.items if one.deleted]
    number, amount = _sums(gone)
    rest = len(told.items) - len(gone)
    return f"deleted: {number}, {amount}" + (f"; not deleted: {rest}" if rest else "")


def _sums(items: "list[Garbage]") -> tuple[str, str]:
    from flows.cli.plan import size

    return str(len(items)), size(sum(one.bytes for one in items))
