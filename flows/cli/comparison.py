"""What `sweep` and `ablate` share: a flow called without servers of one's own, and its table."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from flows.cli.settings import prefect_api
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from flows.outcome import Outcome
    from infra.store import Store


def compared(run: Callable[[], "Outcome"], name: str, store: "Store", *, json: bool) -> None:
    """Run the flow; print its table and where its files are, or one line of JSON.

    Args:
        run: imports the flow and calls it: Prefect may be imported only once it is set up.
        name: the table's among the artifacts.
        store: where artifacts live.
        json: print the outcome as JSON.
    """
    from infra import ray_cluster
    from tasks.sweep.files import opened_first, read_text

    with prefect_api():
        try:
            outcome = run()
        finally:
            ray_cluster.leave()
    if json:
        typer.echo(outcome.model_dump_json())
        return
    table = outcome.artifacts[name]
    typer.echo(read_text(table, store=store))
    for file in opened_first(table, store=store):
        typer.echo(file)


def numbers(name: str, text: str, kind: type[float]) -> list[float]:
    """`0.3,1,3` as numbers; ConfigError for a word that is none."""
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"{name} = {text!r}: numbers with commas between them were expected, such as 0.3,1,3"
        ) from error
