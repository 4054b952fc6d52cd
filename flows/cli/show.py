"""What the command prints when it is done: one table and the addresses, or one line of JSON."""

import json
import sys
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.cli.terminal import console
from flows.outcome import Outcome
from flows.told import in_words
from infra.store import Store
from schemas.artifact import Artifact
from schemas.report import ArmReport, Metric, in_order

TABLE_WIDTH = 100
INSIDE = {
    "model": "model",
    "data docs": "docs/index.html",
    "report": "report.html",
    "answers": "items.parquet",
}


def as_json(artifact: Artifact) -> None:
    """One artifact as one line."""
    sys.stdout.write(artifact.model_dump_json() + "\n")


def run_as_json(outcome: Outcome, reports: list[ArmReport]) -> None:
    """A whole run as one line: every artifact, the numbers of every arm, the gate's decision."""
    decision = outcome.decision
    line = {
        "artifacts": {name: a.model_dump() for name, a in outcome.artifacts.items()},
        "reports": {r.arm: r.model_dump(mode="json") for r in reports},
        "decision": decision.model_dump(mode="json") if decision else None,
    }
    sys.stdout.write(json.dumps(line) + "\n")


def summary(outcome: Outcome, reports: list[ArmReport], store: Store) -> None:
    """The table of all arms, where things are, and what the gate says."""
    terminal = console(TABLE_WIDTH)
    if reports:
        terminal.print(_table(reports))
    artifacts = outcome.artifacts
    places = {
        "model": artifacts.get("stage2") or artifacts.get("stage1"),
        "data docs": artifacts.get("validate"),
        "report": artifacts.get("report"),
        "answers": _last_answers(artifacts),
    }
    for name, artifact in places.items():
        if artifact is not None:
            terminal.print(f"{name:<10} {place(store, artifact, INSIDE[name])}", soft_wrap=True)
    if model := places["model"]:
        terminal.print(f"{'artifact':<10} {model.uri}", soft_wrap=True)
    if outcome.decision is not None:
        terminal.print(f"{'gate':<10} {in_words(outcome.decision)}", soft_wrap=True)


def _last_answers(artifacts: Mapping[str, Artifact]) -> Artifact | None:
    """What the last evaluated arm answered, if all of the run's have been."""
    if "report" not in artifacts and "evaluate/stage2" not in artifacts:
        return None
    return [made for name, made in artifacts.items() if name.startswith("evaluate/")][-1]


def place(store: Store, artifact: Artifact, inside: str) -> str:
    """Where a file of an artifact lies."""
    attempt = store.manifest(artifact).attempt
    return f"{artifact.uri}/attempts/{attempt}/{inside}"


def _table(reports: list[ArmReport]) -> Table:
    title = "held-out items, in %, with 95 % intervals"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    table.add_column("n", justify="right")
    for report in reports:
        table.add_column(report.arm, justify="right", no_wrap=True)
    for name in in_order(name for report in reports for name in report.metrics):
        cells = [report.metrics.get(name) for report in reports]
        counts = sorted({cell.n for cell in cells if cell})
        if any(counts):
            label = name.replace("_", " ").replace("/", ", ")
            table.add_row(label, "/".join(map(str, counts)), *(_cell(cell) for cell in cells))
    return table


def _cell(metric: Metric | None) -> str:
    if metric is None or metric.n == 0:
        return "-"
    return f"{100 * metric.value:.1f} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"
