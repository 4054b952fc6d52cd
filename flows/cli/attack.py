"""`psavlm attack`: what changed pixels, words on images and other wordings do to a model."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.named import Address, Model, model_address
from flows.cli.options import Json
from flows.cli.settings import reach
from flows.cli.terminal import console
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from infra.store import Store
    from schemas.artifact import Artifact
    from schemas.attack import AttackConfig, AttackReport, AttackRow

WIDTH = 110
INSIDE = {"rows": "items.parquet", "numbers": "report.json", "plot": "attack.png"}
COLUMNS = {"misjudged": "let pass", "mistyped": "other type", "broken": "obeyed"}


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    example = "psavlm attack --model champion --eps 2,4,8 --items 50"
    app.command("attack", epilog=f"Example: {example}")(attack)


def attack(  # noqa: PLR0913 - options
    model: Model = "",
    artifact: Address = "",
    labelled: Annotated[
        str, typer.Option(help="Address of a validate artifact; empty is the model's own data.")
    ] = "",
    eps: Annotated[
        str | None, typer.Option(help="Budgets in 1/255 of a pixel's range, such as 2,4,8.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps.")] = None,
    restarts: Annotated[int | None, typer.Option(help="Random starts per item.")] = None,
    items: Annotated[int | None, typer.Option(help="Risky test items, by hash order.")] = None,
    benign: Annotated[int | None, typer.Option(help="Benign test items.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="What gradients aim at: joint,head,answer,tokens.")
    ] = None,
    wordings: Annotated[
        str | None, typer.Option(help="Paraphrases: default, tiny, or a .toml file.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Items at a time; their gradients need memory.")
    ] = None,
    root: Annotated[
        str, typer.Option(help="Where the result goes; empty is the root of the model.")
    ] = "",
    json: Json = False,
) -> None:
    """Attack a trained model through pixels, words on images and paraphrases."""
    asked = {
        "eps": eps,
        "steps": steps,
        "restarts": restarts,
        "items": items,
        "benign": benign,
        "targets": targets,
        "wordings": wordings,
        "batch": batch,
    }
    config = _config(asked)
    address = model_address(model, artifact)
    reach(root)
    from flows.line import plainly
    from flows.told import told
    from infra.store import Store
    from tasks.attack import attack as attack_model
    from tasks.attack import attack_inputs
    from tasks.named import find_trained
    from tasks.progress import say

    inputs = attack_inputs(find_trained(address)[0], labelled)
    store = Store(root or inputs.model.uri.rsplit("/", 2)[0])
    if root and (warning := store.check()):
        say(warning)
    found = told(plainly)("attack", attack_model, config, inputs, store=store)
    _tell(found, store, json=json)


def _config(asked: dict[str, Any]) -> "AttackConfig":
    from pydantic import ValidationError

    from schemas.attack import AttackConfig
    from schemas.explain import explain

    given = {name: value for name, value in asked.items() if value is not None}
    for name in ("eps", "targets"):
        if name in given:
            given[name] = [part.strip() for part in given[name].split(",") if part.strip()]
    try:
        return AttackConfig.model_validate(given)
    except ValidationError as error:
        raise ConfigError(explain(error.errors(), AttackConfig)) from error


def _tell(found: "Artifact", store: "Store", *, json: bool) -> None:
    from flows.cli import show
    from tasks.attack import read_attack

    if json:
        show.as_json(found)
        return

    terminal = console(WIDTH)
    report = read_attack(found, store=store)
    terminal.print(_table(report))
    for check in report.checks:
        terminal.print(f"{'yes' if check.passed else 'NO '}  {check.name}: {check.told}")
    for name, inside in INSIDE.items():
        terminal.print(f"{name:<7} {show.place(store, found, inside)}", soft_wrap=True)


def _table(report: "AttackReport") -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    counts = report.items
    title = f"{counts['risky']} risky and {counts['benign']} benign items, in % [95 % interval]"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("attack", "budget", *COLUMNS.values(), "benign refused"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    benign = {(row.attack, row.eps): row for row in report.rows if not row.risky}
    for row in report.rows:
        if row.risky and not row.type:
            cells = [_cell(row, goal) for goal in COLUMNS]
            other = benign.get((row.attack, row.eps))
            cells.append(_cell(other, "broken") if other else "-")
            table.add_row(row.attack, str(row.eps or "-"), *cells)
    return table


def _cell(row: "AttackRow", goal: str) -> str:
    if goal not in row.metrics:
        return "-"
    metric = row.metrics[goal]
    return f"{100 * metric.value:.1f} [{100 * metric.low:.0f}, {100 * metric.high:.0f}]"
