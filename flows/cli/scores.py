"""Lines, or JSON, of `psavlm benchmark`: the benchmarks that there are, and a model's numbers."""

import json as jsonlib
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from schemas.artifact import Artifact
    from schemas.benchmark import BenchmarkReport
    from schemas.report import Metric


def list_benchmarks(json: bool) -> None:
    """All benchmarks: what each asks, and what its folder holds."""
    from tasks.benchmarks.registry import BENCHMARKS

    found = sorted(BENCHMARKS.items())
    if json:
        lines = [
            {
                "name": name,
                "about": one.about,
                "layout": one.layout,
                "judged_by": one.judged_by,
                "phrases": one.phrases,
                "rubric": one.rubric,
                "rules": dict(one.rules),
                "licence": one.licence,
                "caveat": one.caveat,
            }
            for name, one in found
        ]
        sys.stdout.write(jsonlib.dumps({"benchmarks": lines}) + "\n")
        return
    for name, one in found:
        typer.echo(f"{name:<15} {one.about}")
        typer.echo(f"{'':<15} --data: {one.layout}")


def show_scores(artifact: "Artifact", report: "BenchmarkReport", json: bool) -> None:
    """A model's numbers on one, official ones first; as JSON with all that the report holds."""
    if json:
        told = {"artifact": artifact.model_dump(mode="json"), **report.model_dump(mode="json")}
        sys.stdout.write(jsonlib.dumps(told) + "\n")
        return
    typer.echo(f"{report.benchmark}: {report.items} items, {report.model}, {report.judge}")
    for name, value in report.official.items():
        typer.echo(f"  {name:<40} {value:.2f}")
    for name, metric in report.measures.items():
        typer.echo(f"  {name:<40} {_interval(metric)}")
    if report.agreement:
        told = report.agreement.model_dump(exclude_none=True)
        typer.echo("  agreement: " + ", ".join(f"{key} {value}" for key, value in told.items()))
    for caveat in report.caveats:
        typer.echo(f"  note: {caveat}")
    typer.echo(artifact.uri)


def _interval(metric: "Metric") -> str:
    return f"{metric.value:.3f}  [{metric.low:.3f}, {metric.high:.3f}], n = {metric.n}"
