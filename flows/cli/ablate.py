"""`psavlm ablate`: the ablation as a Prefect flow, without servers of your own."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.comparison import compared, numbers
from flows.cli.options import (
    DEFAULT_ROOT,
    Base,
    Choice,
    Cluster,
    Json,
    Preset,
    Ratio,
    Ratio2,
    Root,
    Source,
)
from flows.cli.start import started

if TYPE_CHECKING:
    from flows.outcome import Outcome


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    example = "psavlm ablate --methods base,sft,psa-vlm,psavlm-plus --seeds 1,2,3"
    app.command("ablate", epilog=f"Example: {example}")(ablate)


def ablate(  # noqa: PLR0913 - the options are the flow's parameters
    methods: Annotated[
        str, typer.Option(help="Methods: shipped names or .toml files; empty is all that differ.")
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds of training order and stages.")] = "1,2,3",
    hold_out_sources: Annotated[
        str,
        typer.Option(
            help="Train every method once more without each source, and judge it on that source; "
            "* stands for any letters, such as 'second-style*'."
        ),
    ] = "",
    hold_out_types: Annotated[str, typer.Option(help="The same for risk types.")] = "",
    preset: Preset = "tiny-hard",
    root: Root = DEFAULT_ROOT,
    source: Source = None,
    base: Base = "",
    clean_per_unsafe: Ratio = None,
    stage2_clean_per_unsafe: Ratio2 = None,
    cluster: Cluster = "",
    json: Json = False,
) -> None:
    """Train and evaluate several methods on the same items; a table and a plot of all of them."""
    from schemas.ablation import METHODS, AblationParameters

    choice = Choice(preset, root, source, base, "", clean_per_unsafe, stage2_clean_per_unsafe, None)
    asked = AblationParameters.checked(
        {
            "methods": methods.split(",") if methods else METHODS,
            "seeds": numbers("seeds", seeds, int),
            "hold_out_sources": hold_out_sources.split(",") if hold_out_sources else [],
            "hold_out_types": hold_out_types.split(",") if hold_out_types else [],
        }
    )
    with started(choice, None, cluster) as (_, store):
        given = {k: v for k, v in choice.parameters().items() if k not in ("method", "seed")}
        parameters: dict[str, Any] = {**given, **asked.model_dump(), "cluster": cluster}

        def run() -> "Outcome":
            from flows.ablation import ablation

            return ablation(**parameters, root=store.root)

        compared(run, "ablation", store, json=json)
