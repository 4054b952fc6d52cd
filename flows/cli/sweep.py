"""`psavlm sweep`: the ratio sweep as a Prefect flow, without servers of your own."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.comparison import compared, numbers
from flows.cli.options import (
    DEFAULT_ROOT,
    Base,
    Choice,
    Cluster,
    Json,
    Method,
    Preset,
    Ratio2,
    Root,
    Source,
)
from flows.cli.start import started

if TYPE_CHECKING:
    from flows.outcome import Outcome


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    example = "psavlm sweep --ratios 0.3,1,3,10 --seeds 1"
    app.command("sweep", epilog=f"Example: {example}")(sweep)


def sweep(  # noqa: PLR0913 - the options are the flow's parameters
    ratios: Annotated[str, typer.Option(help="Clean items per unsafe one.")] = "0.3,1,3,10",
    seeds: Annotated[str, typer.Option(help="Seeds of training order and stages.")] = "1",
    preset: Preset = "tiny-hard",
    root: Root = DEFAULT_ROOT,
    source: Source = None,
    base: Base = "",
    method: Method = "",
    stage2_clean_per_unsafe: Ratio2 = None,
    total: Annotated[
        int | None,
        typer.Option(help="Items an epoch for every ratio; the most that all can be drawn from."),
    ] = None,
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of benign items that every guard may flag.")
    ] = 0.05,
    cluster: Cluster = "",
    promote: Annotated[
        bool, typer.Option(help="Let the gate decide on the best Pareto point.")
    ] = False,
    json: Json = False,
) -> None:
    """Train and evaluate at several ratios; a table and a plot of what each of them costs."""
    from schemas.sweep import SweepParameters

    choice = Choice(preset, root, source, base, method, None, stage2_clean_per_unsafe, None)
    asked = SweepParameters.checked(
        {
            "ratios": numbers("ratios", ratios, float),
            "seeds": numbers("seeds", seeds, int),
            "total": total,
            "false_positive_rate": false_positive_rate,
        }
    )
    with started(choice, None, cluster) as (_, store):
        given = {
            k: v for k, v in choice.parameters().items() if k not in ("clean_per_unsafe", "seed")
        }
        parameters: dict[str, Any] = {**given, **asked.model_dump(), "cluster": cluster}

        def run() -> "Outcome":
            from flows.ratio_sweep import ratio_sweep

            return ratio_sweep(**parameters, root=store.root, promote=promote)

        compared(run, "sweep", store, json=json)
