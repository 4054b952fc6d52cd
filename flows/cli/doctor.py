"""`psavlm doctor`: one green line for all that is fine, and for each red one what to do."""

import json as jsonlib
from pathlib import Path

import typer

from flows.cli.options import DEFAULT_ROOT, Json, Root

COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    app.command("doctor", epilog="Example: psavlm doctor --root .psavlm/store")(doctor)


def doctor(root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """Check this machine and the servers; exit code 1 when something has to be done."""
    from infra.doctor import examine

    checks = examine(Path.cwd(), root)
    if json:
        typer.echo(jsonlib.dumps({check.name: check.model_dump() for check in checks}))
    else:
        for check in checks:
            mark = typer.style(f"{check.state:<4}", fg=COLOURS[check.state])
            remedy = f"  -> {check.remedy}" if check.remedy else ""
            typer.echo(f"{mark}  {check.name:<15} {check.said}{remedy}")
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)
