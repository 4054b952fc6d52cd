"""`psavlm export`: a trained model as a folder for other programs."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.named import Address, Model, model_address
from flows.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    example = "psavlm export --model champion --merged my-model"
    app.command("export", epilog=f"Example: {example}")(export)


def export(
    merged: Annotated[Path, typer.Option(help="The new folder.")],
    model: Model = "",
    artifact: Address = "",
    json: Json = False,
) -> None:
    """Write a model as a standard folder with its adapter merged, or its parts where it has more.

    Safety tokens and the guard fit into no standard folder: base, adapter and safety modules are
    then written side by side, with a README.
    """
    from tasks.export import export_model

    told = export_model(model_address(model, artifact), merged)
    if json:
        typer.echo(jsonlib.dumps(told))
        return
    if told["form"] == "merged":
        typer.echo(f"{told['out']}: a standard Hugging Face folder, the adapter merged")
        return
    typer.echo(
        f"{told['out']}: not merged, as the method answers with {' and '.join(told['needs'])}; "
        "base, adapter and safety modules are side by side (see its README.md)"
    )
