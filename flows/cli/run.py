"""`psavlm run`: the whole pipeline as a Prefect flow, without servers of your own."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from flows.cli.start import started
from schemas.errors import StorageError

if TYPE_CHECKING:
    from infra.store import Store


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    app.command("run", epilog="Example: psavlm run --preset tiny --clean-per-unsafe 0.5")(run)


def run(  # noqa: PLR0913 - the options are the flow's parameters
    preset: Preset = "tiny",
    root: Root = DEFAULT_ROOT,
    source: Source = None,
    base: Base = "",
    method: Method = "",
    clean_per_unsafe: Ratio = None,
    stage2_clean_per_unsafe: Ratio2 = None,
    seed: Seed = None,
    cluster: Cluster = "",
    until: Annotated[str | None, typer.Option(help="Last step to run.")] = None,
    promote: Annotated[bool, typer.Option(help="Let the gate decide on the model.")] = True,
    json: Json = False,
) -> None:
    """Run the pipeline from data to the gate's decision. Steps that are done are reused."""
    choice = Choice(
        preset, root, source, base, method, clean_per_unsafe, stage2_clean_per_unsafe, seed
    )
    with started(choice, until) as (_, store):
        asked = {**choice.parameters(), "cluster": cluster, "until": until, "promote": promote}
        _run(asked, store, json=json)


def _run(parameters: dict[str, Any], store: "Store", *, json: bool) -> None:
    make_home()  # before Prefect is imported, which warns when it cannot
    from flows.cli import show
    from flows.full_pipeline import full_pipeline
    from infra import ray_cluster
    from tasks.evaluate.step import read_report
    from tasks.progress import say

    if not os.environ.get("PREFECT_API_URL"):
        say("starting Prefect's temporary server")
    try:
        outcome = full_pipeline(**parameters, root=store.root)
    finally:
        ray_cluster.leave()
    reports = [
        read_report(artifact, store=store)
        for name, artifact in outcome.artifacts.items()
        if name.startswith("evaluate/")
    ]
    if json:
        show.run_as_json(outcome, reports)
    else:
        show.summary(outcome, reports, store)


def make_home() -> None:
    """Prefect's temporary server never comes up where its home cannot be made."""
    home = Path(os.environ["PREFECT_HOME"])
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make Prefect's folder {home}: {error.strerror}; run in a folder that can be "
            "written, or set PREFECT_HOME to one"
        ) from error
