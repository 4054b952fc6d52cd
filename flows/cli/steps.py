"""One sub-command per step: brings that step's artifact up to date, with all that it needs."""

from collections.abc import Callable

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

# Sub-command -> what it does, for --help. The order is the pipeline's.
HELP = {
    "world": "Draw the tiny world on disk.",
    "ingest": "Read the sources into samples; what is no record becomes a reject with a reason.",
    "validate": "Check labels and rows; bad rows go to quarantine, the verdict to Data Docs.",
    "balance": "Fix the clean-to-unsafe ratio and the training order.",
    "base": "Train or fetch the base model.",
    "encode": "Encode every image once with the frozen vision tower.",
    "stage1": "Train the safety modules on the frozen model.",
    "stage2": "Fine-tune the language model: with LoRA, or all of it.",
    "evaluate": "Evaluate the base and every trained stage on the held-out items.",
    "report": "Write the report: one HTML page, its Markdown, plots and numbers.",
}


def register(app: typer.Typer) -> None:
    """Add a sub-command for every step."""
    for name, text in HELP.items():
        app.command(name, help=text, epilog=f"Example: psavlm {name} --preset tiny --json")(
            _command(name)
        )


def _command(name: str) -> Callable[..., None]:
    def command(  # noqa: PLR0913 - the options are the flow's parameters
        preset: Preset = "tiny",
        root: Root = DEFAULT_ROOT,
        source: Source = None,
        base: Base = "",
        method: Method = "",
        clean_per_unsafe: Ratio = None,
        stage2_clean_per_unsafe: Ratio2 = None,
        seed: Seed = None,
        cluster: Cluster = "",
        json: Json = False,
    ) -> None:
        choice = Choice(
            preset, root, source, base, method, clean_per_unsafe, stage2_clean_per_unsafe, seed
        )
        _bring_up_to_date(name, choice, cluster=cluster, json=json)

    return command


def _bring_up_to_date(name: str, choice: Choice, *, cluster: str, json: bool) -> None:
    from flows.cli import show
    from flows.line import pipeline, plainly, up_to
    from flows.parameters import checked_until
    from flows.told import told
    from infra import ray_cluster

    with started(choice, name, cluster) as (config, store):
        steps = pipeline(config, store=store, do=told(plainly), cluster=cluster)
        try:
            artifacts = up_to(steps, checked_until(name, config))
        finally:
            ray_cluster.leave()
    last = [artifact for key, artifact in artifacts.items() if key.partition("/")[0] == name][-1]
    if json:
        show.as_json(last)
    else:
        typer.echo(last.uri)
