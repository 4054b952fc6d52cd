"""`psavlm answer`: one question about one image, with verdict, probabilities and action."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.named import Address, Model, model_address
from flows.cli.options import Json, Policy


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    example = 'psavlm answer --model champion --image sign.png "what is this ?"'
    app.command("answer", epilog=f"Example: {example}")(answer)


def answer(  # noqa: PLR0913 - the options are the command's own
    question: Annotated[str, typer.Argument(help="What to ask.")],
    image: Annotated[Path, typer.Option(help="An image file.")],
    model: Model = "",
    artifact: Address = "",
    policy: Policy = "",
    force: Annotated[
        str, typer.Option(help="A concept in place of what the guard sees: type:level, or clean.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 64,
    json: Json = False,
) -> None:
    """Ask a trained model; the guard looks first, then the model answers."""
    from tasks.answer import answer_one

    address = model_address(model, artifact)
    result = answer_one(
        address, image, question, policy=policy, force=force, max_new_tokens=max_new_tokens
    )
    if json:
        typer.echo(jsonlib.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            value = "  ".join(f"{k} {p:.3f}" for k, p in value.items())
        typer.echo(f"{name:<12} {value}")
