"""`psavlm verify`: every file by its hash; what is damaged will be built anew."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.lineage import ARTIFACT
from flows.cli.options import DEFAULT_ROOT, Json, Root
from flows.cli.settings import reach
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from schemas.upkeep import Verification

Names = Annotated[
    list[str] | None,
    typer.Argument(help=f"Artifacts, with all that they are made of; none is all. {ARTIFACT}"),
]


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    app.command("verify", epilog="Example: psavlm verify --root .psavlm/store")(verify)


def verify(artifacts: Names = None, root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """Hash every file of the root, or of some artifacts; exit code 1 if anything is damaged.

    A damaged artifact loses its manifest, so that the next run rebuilds it.
    """
    from infra.address import checked_address
    from infra.lineage import located
    from infra.verification import verify as check
    from tasks.progress import progress
    from tasks.references import REFERENCES

    reach(root, *(artifacts or ()))
    found = [located(text, root=root) for text in artifacts or ()]
    roots = {place for place, _ in found} or {checked_address(root)}
    if len(roots) > 1:
        raise ConfigError(f"{', '.join(sorted(roots))}: give artifacts of one root at a time")
    wanted = [folder for _, folder in found] or None
    told = check(roots.pop(), wanted, references=REFERENCES, progress=progress)
    if json:
        sys.stdout.write(told.model_dump_json() + "\n")
    else:
        _show(told)
    if told.damaged:
        raise typer.Exit(1)


def _show(told: "Verification") -> None:
    from flows.cli.plan import size

    state = f"{len(told.damaged)} DAMAGED" if told.damaged else "all sound"
    amount = f"{told.artifacts} artifacts, {told.files} files, {size(told.bytes)}"
    typer.echo(f"{told.root}: {amount}: {state}")
    for fault in told.damaged:
        typer.echo(f"  damaged  {fault.artifact}: {fault.why}")
    for fault in told.missing:
        typer.echo(f"  missing  {fault.artifact}: {fault.why}")
    if told.damaged:
        typer.echo(
            "the manifests of damaged artifacts are removed: run the same command as before again, "
            "which rebuilds them, then psavlm gc"
        )
