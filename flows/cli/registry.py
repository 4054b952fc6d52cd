"""`psavlm promote`, `rollback` and `registry`: who is champion, since when, and why."""

import json as jsonlib
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import (
    DEFAULT_ROOT,
    Base,
    Choice,
    Cluster,
    Json,
    Method,
    Preset,
    Ratio,
    Ratio2,
    Root,
    Seed,
    Source,
)
from flows.cli.settings import reach
from flows.cli.start import started

if TYPE_CHECKING:
    from schemas.decision import Decision

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Decide, and write neither decision nor registry.")
]
Again = Annotated[
    bool, typer.Option("--again", help="Also a model that a rollback took off may be promoted.")
]


def register(app: typer.Typer) -> None:
    """Add the sub-commands."""
    app.command("promote", epilog="Example: psavlm promote --preset tiny --dry-run")(promote)
    app.command("rollback", epilog="Example: psavlm rollback --root .psavlm/store")(rollback)
    app.command("registry", epilog="Example: psavlm registry --json")(registry)


def promote(  # noqa: PLR0913 - the options are the flow's parameters
    preset: Preset = "tiny",
    root: Root = DEFAULT_ROOT,
    source: Source = None,
    base: Base = "",
    method: Method = "",
    clean_per_unsafe: Ratio = None,
    stage2_clean_per_unsafe: Ratio2 = None,
    seed: Seed = None,
    cluster: Cluster = "",
    dry_run: DryRun = False,
    again: Again = False,
    json: Json = False,
) -> None:
    """Ask the gate whether this run's model may become champion; exit code 1 if it may not."""
    choice = Choice(
        preset, root, source, base, method, clean_per_unsafe, stage2_clean_per_unsafe, seed
    )
    decision = _promote(choice, cluster=cluster, dry_run=dry_run, again=again)
    _tell(decision, json=json)
    if decision.action == "refused":
        raise typer.Exit(1)


def rollback(root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """Make the previous champion champion again."""
    from infra.store import Store
    from tasks.promote import rollback as go_back

    reach(root)
    _tell(go_back(Store(root)), json=json)


def registry(root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """Show all versions with their aliases, and every decision with its reason."""
    from flows.cli import history
    from infra.decisions import read_decisions
    from infra.registry import Registry
    from infra.store import Store

    reach(root)
    place = Store(root).root
    decisions, versions = read_decisions(place), Registry().versions()
    if not json:
        history.show(versions, decisions, place)
        return
    line = {
        "versions": [version.model_dump(mode="json") for version in versions],
        "decisions": [decision.model_dump(mode="json") for decision in decisions],
    }
    typer.echo(jsonlib.dumps(line))


def _promote(choice: Choice, *, cluster: str, dry_run: bool, again: bool) -> "Decision":
    from flows.line import evidence, pipeline, plainly, up_to
    from flows.told import told
    from infra import ray_cluster
    from schemas.gate import load_gate
    from tasks.promote import promote as decide

    with started(choice, "promote", cluster) as (config, store):
        gate = load_gate(config.gate)
        steps = pipeline(config, store=store, do=told(plainly), cluster=cluster)
        try:
            made = up_to(steps, None)
        finally:
            ray_cluster.leave()
        inputs = evidence(config, made)
        return decide(gate, inputs, store=store, dry_run=dry_run, again=again)


def _tell(decision: "Decision", *, json: bool) -> None:
    from flows.cli import history

    if json:
        typer.echo(decision.model_dump_json())
    else:
        history.show_one(decision)
