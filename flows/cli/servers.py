"""`psavlm up`, `down`, `status`: the servers of this project's folder."""

import json as jsonlib
import os
import sys
from pathlib import Path

import typer

from flows.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the sub-commands."""
    app.command("up", epilog="Example: psavlm up --json")(up)
    app.command("down", epilog="Example: psavlm down --json")(down)
    app.command("status", epilog="Example: psavlm status --json")(status)


def up(json: Json = False) -> None:
    """Start Prefect server and worker, Ray head and MLflow page; what is up stays as it is."""
    from flows.cli.settings import for_servers
    from infra.servers import servers
    from infra.servers import up as bring_up

    home = Path.cwd()
    before = {name: server.pid for name, server in servers(home).items()}
    now = bring_up(home, for_servers(), say=_say)
    started = {name: server.pid != before.get(name) for name, server in now.items()}
    if json:
        line = {
            name: {"page": s.page, "ports": s.ports, "pid": s.pid, "started": started[name]}
            for name, s in now.items()
        }
        typer.echo(jsonlib.dumps(line))
        return
    for server in now.values():
        typer.echo(f"{server.title:<15} {server.page or 'work pool psavlm'}")
    typer.echo("(the Ray dashboard asks for the token in .psavlm/ray-token)")


def down(json: Json = False) -> None:
    """Stop the servers of this folder, and the runs of its worker."""
    from infra.servers import down as bring_down

    stopped = bring_down(Path.cwd(), say=_say)
    if json:
        typer.echo(jsonlib.dumps({"stopped": stopped}))
    elif not stopped:
        typer.echo("nothing was up")


def status(json: Json = False) -> None:
    """Say which servers are up, where, and where their logs are."""
    from infra.servers import servers

    known = servers(Path.cwd()).values()
    if json:
        lines = {
            s.name: {"up": s.alive(), "page": s.page, "ports": s.ports, "pid": s.pid, "log": s.log}
            for s in known
        }
        typer.echo(jsonlib.dumps(lines))
        return
    for server in known:
        state = f"up    pid {server.pid}" if server.alive() else "dead: psavlm up"
        log = os.path.relpath(server.log)
        typer.echo(f"{server.title:<15} {state:<18} {server.page:<24} {log}".rstrip())
    if not known:
        typer.echo("nothing is up: psavlm up")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
