"""`psavlm plan --recipe`: which published data sets are here, missing or closed."""

import sys
from typing import TYPE_CHECKING

from flows.cli.terminal import console

if TYPE_CHECKING:
    from schemas.config import SourceConfig
    from schemas.recipe import RecipeLine, RecipePlan

WIDTH = 120


def show_recipe(path: str, *, json: bool) -> None:
    """Tell what of a recipe is here, as tables or as one line of JSON.

    Raises:
        ConfigError: a file that is no recipe.
        DataError: a copy that is not the data set it is said to be.
    """
    from infra.fetch import fetched
    from schemas.recipe import load_recipe
    from tasks.plan import recipe_plan

    told = recipe_plan(load_recipe(fetched(path, what="recipe")))
    if json:
        sys.stdout.write(told.model_dump_json() + "\n")
    else:
        _show(told)


def _show(told: "RecipePlan") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    terminal = console(WIDTH)
    title = f"recipe {told.recipe}: counts of {told.origin}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("type", "part", "set"):
        table.add_column(name, no_wrap=True)
    for name in ("papers", "train", "found"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("status", "access", "format"):
        table.add_column(name, no_wrap=True)
    for line in told.lines:
        counts = (str(line.papers), _number(line.train), _number(line.found))
        kind = (line.status, line.access, line.format or "-")
        table.add_row(line.type, line.name, line.set, *counts, *kind)
    terminal.print(table)
    for text in (*totals(told), *terms(told), *commands(told)):
        terminal.print(text, soft_wrap=True)


def totals(told: "RecipePlan") -> list[str]:
    """A line per risk type: what the papers sampled, and from how much of which status."""
    return [
        f"{total.type}: the papers sampled {total.sampled} of "
        f"{total.have + total.part + total.missing + total.closed}: have {total.have}, "
        f"in part {total.part}, missing {total.missing}, closed {total.closed}; "
        f"items read here: {total.found}"
        for total in told.types
    ]


def terms(told: "RecipePlan") -> list[str]:
    """Where each set comes from and on which terms; what is wrong with a copy, and the notes."""
    sets: dict[str, RecipeLine] = {line.set: line for line in told.lines}
    lines = [f"{name}: {own.where}; licence: {own.licence}" for name, own in sets.items()]
    lines += dict.fromkeys(f"{line.set}: {line.problem}" for line in told.lines if line.problem)
    lines += [f"{line.name}: {line.note}" for line in told.lines if line.note]
    return lines + [f"{title}: {note}" for title, note in told.notes.items()]


def commands(told: "RecipePlan") -> list[str]:
    """What a run takes of it."""
    if not told.sources:
        return ["nothing of it is here: fill in uri and images in a copy of the recipe"]
    return ["for a run: " + " ".join(f"--source '{as_text(source)}'" for source in told.sources)]


def as_text(source: "SourceConfig") -> str:
    """A source as `--source` takes it."""
    given = source.model_dump(mode="json", exclude_defaults=True)
    return ",".join(f"{key}={value}" for key, value in given.items())


def _number(count: int | None) -> str:
    return "-" if count is None else str(count)
