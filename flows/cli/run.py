"""`psavlm run`: the whole pipeline as a Prefect flow, without servers of your own."""

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
from flows.cli.settings import prefect_api
from flows.cli.start import started

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
    with started(choice, until, cluster) as (_, store):
        asked = {**choice.parameters(), "cluster": cluster, "until": until, "promote": promote}
        _run(asked, store, json=json)


def _run(parameters: dict[str, Any], store: "Store", *, json: bool) -> None:
    from flows.cli import show
    from infra import ray_cluster
    from tasks.evaluate.step import read_report

    with prefect_api():
        from flows.full_pipeline import full_pipeline

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
