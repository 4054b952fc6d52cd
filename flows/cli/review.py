"""`psavlm review` and `reviewed`: people judge answers without knowing whose they are."""

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import DEFAULT_ROOT, NAMES, Items, Json, Preset, Root
from flows.cli.start import ready

if TYPE_CHECKING:
    from tasks.review.votes import Review


def register(app: typer.Typer) -> None:
    """Add the sub-commands."""
    example = "psavlm review previous champion --out review --key review-key.json"
    app.command("review", epilog=f"Example: {example}")(review)
    example = "psavlm reviewed review-key.json anna.csv ben.csv"
    app.command("reviewed", epilog=f"Example: {example}")(reviewed)


def review(  # noqa: PLR0913 - the options are the command's own
    old: Annotated[str, typer.Argument(help=f"A model: {NAMES}.")],
    new: Annotated[str, typer.Argument(help="The other one, named in the same ways.")],
    out: Annotated[Path, typer.Option(help="A new folder, for the reviewers.")],
    key: Annotated[Path, typer.Option(help="A new file that says who is who; keep it from them.")],
    count: Annotated[int, typer.Option(min=1, help="Items, of those answered differently.")] = 50,
    blur: Annotated[bool, typer.Option(help="Blur the images.")] = True,
    items: Items = "",
    preset: Preset = "tiny",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write two models' answers side by side as A and B, for people to judge."""
    from flows.comparing import both_answers
    from flows.line import plainly
    from flows.told import told
    from tasks.compare.sides import samples_of
    from tasks.review import ReviewConfig, export_review

    with ready(preset, root) as (config, store):
        sides, evaluated, labelled = both_answers(
            (old, new), items, config, do=told(plainly), store=store
        )
        written = export_review(
            ReviewConfig(count=count, blur=blur),
            (sides[0].name, sides[1].name),
            evaluated,
            samples_of(labelled),
            out=out,
            key=key,
        )
    if json:
        typer.echo(jsonlib.dumps(written))
        return
    typer.echo(
        f"{out}: {written['items']} of {written['differ']} items that were answered differently; "
        f"review.csv is to be filled in, {key} kept apart"
    )


def reviewed(
    key: Annotated[Path, typer.Argument(help="The key that psavlm review wrote.")],
    sheets: Annotated[list[Path], typer.Argument(help="Filled-in review.csv files.")],
    json: Json = False,
) -> None:
    """Count what reviewers said: who wins, with a paired test, and how far they agree."""
    from tasks.review import reviewed as count

    found = count(key, sheets)
    typer.echo(found.model_dump_json() if json else _words(found))


def _words(found: "Review") -> str:
    lines = [
        f"{found.new} better in {found.new_better}, {found.old} in {found.old_better}, ties "
        f"{found.ties} of {found.items} items: {100 * found.difference:+.1f} points "
        f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}], p = {found.p:.2g} (exact sign test)"
    ]
    if found.agreement is not None:
        kappa = "not defined" if found.kappa is None else f"{found.kappa:.2f}"
        lines.append(
            f"reviewers agree in {100 * found.agreement:.0f} % of {found.judged_twice} pairs of "
            f"votes, Cohen's kappa {kappa}"
        )
    return "\n".join(lines)
