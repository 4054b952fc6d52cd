"""`psavlm benchmark`: a model on a published benchmark, counted as its authors count."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import DEFAULT_ROOT, Cluster, Json, Preset, Root
from flows.cli.scores import list_benchmarks, show_scores
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from schemas.artifact import Artifact
    from schemas.benchmark import BenchmarkConfig, BenchmarkReport
    from tasks.respond import Responder

Name = Annotated[str, typer.Argument(help="Which; nothing lists them all.")]
Folder = Annotated[str, typer.Option(help="The folder of your copy, local or s3://.")]
Model = Annotated[
    str,
    typer.Option(
        help="base, champion, a version, an artifact's address, a Hugging Face folder, "
        "https://host/v1#model, or answers:FILE."
    ),
]
Judge = Annotated[
    str, typer.Option(help="phrases:NAME or https://host/v1#model; empty is the benchmark's own.")
]
SecondJudge = Annotated[str, typer.Option(help="Another judge, for agreement.")]
Rubric = Annotated[
    str, typer.Option(help="What a judging model is asked: a shipped name or a .toml file.")
]
Rule = Annotated[str, typer.Option(help="A way to count; empty is the official one.")]
Limit = Annotated[int | None, typer.Option(help="At most so many items, chosen by hash.", min=1)]
Batch = Annotated[int, typer.Option(help="Questions at once.", min=1)]
Longest = Annotated[
    int | None, typer.Option(help="Longest answer; empty is the benchmark's own.", min=1)
]
Prices = Annotated[
    str, typer.Option(help="Of a million tokens to and from the judge, such as 2.5,10.")
]
RateInterval = Annotated[str, typer.Option(help="Of rates: wilson or clopper-pearson.")]
Workers = Annotated[
    int, typer.Option(help="Processes that answer, each with the whole model.", min=1)
]
Out = Annotated[
    Path | None, typer.Option(help="A new folder for rows, report and other tools' forms.")
]


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    example = "psavlm benchmark pope --data POPE --model champion"
    app.command("benchmark", epilog=f"Example: {example}")(benchmark)


def benchmark(  # noqa: PLR0913 - the options are the command's own
    name: Name = "",
    data: Folder = "",
    model: Model = "",
    judge: Judge = "",
    second_judge: SecondJudge = "",
    rubric: Rubric = "",
    rule: Rule = "",
    limit: Limit = None,
    batch: Batch = 16,
    max_new_tokens: Longest = None,
    prices: Prices = "",
    interval: RateInterval = "wilson",
    workers: Workers = 1,
    cluster: Cluster = "",
    out: Out = None,
    preset: Preset = "tiny",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Ask a model a benchmark's questions, judge the answers, and count as its authors do."""
    if not name:
        list_benchmarks(json)
        return
    asked = {
        "name": name, "data": data, "rule": rule, "judge": judge, "second_judge": second_judge,
        "rubric": rubric, "limit": limit, "batch": batch, "max_new_tokens": max_new_tokens,
        "prices": _prices(prices), "interval": interval,
    }  # fmt: skip
    config, crew = _config(asked, model), {"workers": workers, "cluster": cluster}
    artifact, report = _examined(config, model, crew, preset=preset, root=root, out=out)
    show_scores(artifact, report, json)


def _config(asked: dict[str, Any], model: str) -> "BenchmarkConfig":
    from pydantic import ValidationError

    from schemas.benchmark import BenchmarkConfig
    from schemas.explain import explain

    if not asked["data"] or not model:
        raise ConfigError(
            f"benchmark {asked['name']!r} needs --data, the folder of your copy, and --model; "
            "psavlm benchmark lists what each folder holds"
        )
    try:
        return BenchmarkConfig.model_validate(asked)
    except ValidationError as error:
        raise ConfigError(explain(error.errors(), BenchmarkConfig)) from error


def _examined(
    config: "BenchmarkConfig",
    model: str,
    crew: dict[str, Any],
    *,
    preset: str,
    root: str,
    out: Path | None,
) -> tuple["Artifact", "BenchmarkReport"]:
    from flows.cli.settings import connect
    from infra import ray_cluster
    from infra.store import Store
    from tasks.credentials import use_credentials
    from tasks.examine import examine, export_results, read_report
    from tasks.respond import choose_responder

    if out and out.exists():
        raise ConfigError(f"--out {str(out)!r} exists already: give a new folder")
    connect()
    use_credentials()
    store = Store(root)
    store.check()
    responder = choose_responder(model, store=store, preset=preset)
    _check_crew(responder, **crew)
    try:
        artifact = examine(config, responder, store=store, **crew)
    finally:
        ray_cluster.leave()
    if out:
        export_results(artifact, out, store=store)
    return artifact, read_report(artifact, store=store)


def _check_crew(responder: "Responder", workers: int, cluster: str) -> None:
    """ConfigError where several processes would be of no use, or a cluster of none."""
    if workers == 1 and cluster:
        raise ConfigError(f"--cluster {cluster!r} is for several --workers: give both or neither")
    if workers > 1 and responder.free:
        raise ConfigError(f"--workers {workers}: answers from a file need none; leave it out")
    if workers > 1 and not responder.ranks:
        raise ConfigError(
            f"--workers {workers}: an endpoint is asked several questions at once as it is; leave "
            "--workers out"
        )


def _prices(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    parts = text.split(",")
    try:
        given, taken = (float(part) for part in parts)
    except ValueError:
        raise ConfigError(f"--prices {text!r}: give two numbers, such as 2.5,10") from None
    if not (0 <= given < float("inf") and 0 <= taken < float("inf")):
        raise ConfigError(f"--prices {text!r}: a price is 0 or more")
    return given, taken
