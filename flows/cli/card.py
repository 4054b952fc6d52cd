"""`psavlm card`: a model's card for the Hugging Face hub, with numbers, intervals and licences."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.named import Address, Model, model_address
from flows.cli.options import DEFAULT_ROOT, Items, Json, Preset, Root
from flows.cli.start import ready


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    app.command("card", epilog="Example: psavlm card --model champion --out my-model")(card)


def card(  # noqa: PLR0913 - the options are the command's own
    out: Annotated[Path, typer.Option(help="A folder of psavlm export, or a new .md file.")],
    model: Model = "",
    artifact: Address = "",
    items: Items = "",
    preset: Preset = "tiny",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write a model card: metadata, what was scored on which items, and the data's licences."""
    from flows.comparing import score_card
    from flows.line import plainly
    from flows.told import told
    from tasks.card import write_card

    address = model_address(model, artifact)
    with ready(preset, root) as (config, store):
        scored = score_card(address, model, items, config, do=told(plainly), store=store)
        written = write_card(scored, out, preset=preset)
    typer.echo(jsonlib.dumps(written) if json else f"{written['out']}: the model's card")
