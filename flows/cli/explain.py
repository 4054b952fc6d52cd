"""`psavlm explain`: one question about one image, answered, with a map of where the head looked."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.named import Address, Model, model_address
from flows.cli.options import Json, Policy


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    example = 'psavlm explain --model champion --image sign.png "what is this ?" --out heat.png'
    app.command("explain", epilog=f"Example: {example}")(explain)


def explain(  # noqa: PLR0913 - the options are the command's own
    question: Annotated[str, typer.Argument(help="What to ask.")],
    image: Annotated[Path, typer.Option(help="An image file.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("heat.png"),
    model: Model = "",
    artifact: Address = "",
    policy: Policy = "",
    json: Json = False,
) -> None:
    """Show where the safety head looked, what it found, and what the model answers."""
    from tasks.explain import explain_one

    result = explain_one(model_address(model, artifact), image, question, out, policy=policy)
    if json:
        typer.echo(jsonlib.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            value = "  ".join(f"{k} {p:.3f}" for k, p in value.items())
        typer.echo(f"{name:<12} {value}")
