"""`psavlm plan`: what a run would do, before anything starts; nothing is written."""

import sys
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
from flows.cli.recipe import show_recipe
from flows.cli.terminal import console
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from schemas.features import CacheDecision
    from schemas.plan import Plan, PlannedStep

WIDTH = 100
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    app.command("plan", epilog="Example: psavlm plan --preset tiny --clean-per-unsafe 0.5")(plan)


def plan(  # noqa: PLR0913 - the options are those of a run
    context: typer.Context,
    preset: Preset = "tiny",
    root: Root = DEFAULT_ROOT,
    source: Source = None,
    base: Base = "",
    method: Method = "",
    clean_per_unsafe: Ratio = None,
    stage2_clean_per_unsafe: Ratio2 = None,
    seed: Seed = None,
    cluster: Cluster = "",
    until: Annotated[str | None, typer.Option(help="Last step to plan.")] = None,
    promote: Annotated[bool, typer.Option(help="Let the gate decide on the model.")] = True,
    recipe: Annotated[
        str,
        typer.Option(help="In place of a run: a recipe (.toml) of published data sets."),
    ] = "",
    json: Json = False,
) -> None:
    """Tell what a run with these options would do: steps, rows, training, time and disk.

    With --recipe: which data sets of a recipe are here, missing or closed.
    """
    if recipe:
        _check_alone(context)
        show_recipe(recipe, json=json)
        return
    from flows.parameters import check_inputs, checked_cluster, checked_until, configured
    from flows.plan import planned

    choice = Choice(
        preset, root, source, base, method, clean_per_unsafe, stage2_clean_per_unsafe, seed
    )
    config = configured(choice.parameters())
    checked_until(until, config)
    checked_cluster(cluster)
    check_inputs(config)
    told = planned(config, root=root, until=until, promote=promote)
    if json:
        sys.stdout.write(told.model_dump_json() + "\n")
    else:
        _show(told)


def _check_alone(context: typer.Context) -> None:
    """ConfigError for options of a run beside --recipe: they would do nothing."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = sorted(name for name, by in sources.items() if by and by.name == "COMMANDLINE")
    given = [name for name in given if name not in ("recipe", "json")]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise ConfigError(
            f"{option} is about a run, and --recipe tells of data sets alone: leave out one of them"
        )


def _show(plan: "Plan") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    terminal = console(WIDTH)
    title = f"preset {plan.preset}, root {plan.root}: nothing has been started"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("step", no_wrap=True)
    table.add_column("")
    for name in ("rows", "time", "disk"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what")
    stopped = False
    for step in plan.steps:
        cost = (duration(step.seconds), size(step.bytes)) if not step.reused else ("", "")
        state = "not reached" if stopped else "reused" if step.reused else "run"
        stopped = stopped or bool(step.problem)
        table.add_row(step.name, state, _rows(step), *cost, _what(step))
    terminal.print(table)
    for line in summary(plan):
        terminal.print(line, soft_wrap=True)


def _rows(step: "PlannedStep") -> str:
    if step.rows is None:
        return "" if step.training else "-"
    return f"≤ {step.rows}" if step.rows_at_most else str(step.rows)


def _what(step: "PlannedStep") -> str:
    words = [f"{p.part}: {p.steps} steps x {p.global_batch}" for p in step.training]
    if step.clean_per_unsafe is not None:
        words.append(f"{step.clean_per_unsafe:g} clean per unsafe")
    if step.cache is not None:
        words += _cache(step.cache)
    if step.problem:
        words.append(f"will fail: {step.problem}")
    return ", ".join(words)


def _cache(told: "CacheDecision") -> list[str]:
    """What becomes of the features, why, and what they would take."""
    kept = "kept" if told.cache == "always" else "not kept"
    words = [f"features {kept}: {told.why}"]
    if told.bytes is not None:
        words.append(f"{told.images} images x {size(told.bytes_per_image)} = {size(told.bytes)}")
    return words


def summary(plan: "Plan") -> list[str]:
    """The totals in words."""
    totals = plan.totals
    lines = [f"to run: {totals.run} steps, to reuse: {totals.reused}"]
    if totals.training_steps:
        lines[0] += f"; training: {totals.training_steps} steps, {totals.samples} items seen"
    if totals.run and totals.seconds is not None:
        bound = "at least" if totals.not_known else "about"
        lines.append(
            f"{bound} {duration(totals.seconds)} and {size(totals.bytes)}, scaled from the newest "
            "comparable artifact of each step in this root"
        )
    if totals.not_known:
        names = ", ".join(totals.not_known)
        lines.append(f"time and disk not known (never run here, or rows not counted yet): {names}")
    if plan.gate:
        lines.append(f"then the gate ({plan.gate}) decides on the model, always anew")
        lines += [f"the gate will refuse it: {why}" for why in plan.refused]
    if plan.free_bytes is not None:
        lines.append(f"free on this disk: {size(plan.free_bytes)}")
        if plan.totals.bytes is not None and plan.totals.bytes > plan.free_bytes:
            lines[-1] += ": TOO LITTLE; make room, or give another --root"
    if plan.problem:
        lines.append(f"this run will fail at {plan.problem}")
    return lines


def duration(seconds: float | None) -> str:
    """Seconds as people say them; `?` if not known."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def size(count: float | None) -> str:
    """Bytes as people say them, by thousands; `?` if not known."""
    if count is None:
        return "?"
    power = 0
    while count >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.0f} {UNITS[power]}"
