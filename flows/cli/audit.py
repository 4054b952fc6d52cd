"""`psavlm audit`: which labels a trained head disputes, source by source and image by image."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.named import Address, Model, model_address
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
from flows.cli.terminal import console
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from infra.store import Store
    from schemas.artifact import Artifact
    from schemas.audit import AuditReport, SourceAudit
    from schemas.config import AuditConfig, PipelineConfig
    from tasks.audit import AuditInputs

WIDTH = 120
KINDS = 3
INSIDE = {"rows": "disputed.parquet", "sheet": "sheet.png", "counts": "sources.json"}
# What a model that is given brings along; `Choice` holds nothing of these by default.
OF_THE_MODEL = ("base", "method", "clean_per_unsafe", "stage2_clean_per_unsafe", "seed")


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    app.command("audit", epilog="Example: psavlm audit --preset tiny --margin 3")(audit)


def audit(  # noqa: PLR0913 - the options are the flow's parameters and the audit's own
    preset: Preset = "tiny",
    root: Root = DEFAULT_ROOT,
    source: Source = None,
    base: Base = "",
    method: Method = "",
    clean_per_unsafe: Ratio = None,
    stage2_clean_per_unsafe: Ratio2 = None,
    seed: Seed = None,
    cluster: Cluster = "",
    model: Model = "",
    artifact: Address = "",
    split: Annotated[
        list[str] | None,
        typer.Option(help="Look at this split only. Repeatable: train, calibration, test."),
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Log-odds from which a label is disputed; 2.3 is 10 to 1.")
    ] = None,
    images: Annotated[int | None, typer.Option(help="Images on the contact sheet.")] = None,
    blur: Annotated[
        bool | None,
        typer.Option(help="Blur the sheet; all but the tiny world is blurred unless you say."),
    ] = None,
    json: Json = False,
) -> None:
    """Rank the rows whose label a trained head disputes; the head is this run's, or --model's."""
    choice = Choice(
        preset, root, source, base, method, clean_per_unsafe, stage2_clean_per_unsafe, seed
    )
    asked = {"splits": split or None, "margin": margin, "images": images, "blur": blur}
    given = model_address(model, artifact) if model or artifact else ""
    _check_choice(choice, given)
    with started(choice, "stage1", cluster) as (config, store):
        found = _audited(config, store, _changed(config.audit, asked), given, cluster)
    _tell(found, store, json=json)


def _check_choice(choice: Choice, given: str) -> None:
    told = [name for name in OF_THE_MODEL if getattr(choice, name) not in (None, "")]
    if given and told:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in told)
        raise ConfigError(
            f"{options} belong to training, but the model {given} is trained: leave them out, or "
            "leave out --model and --artifact to audit with the head of this run"
        )


def _changed(config: "AuditConfig", asked: dict[str, Any]) -> "AuditConfig":
    from pydantic import ValidationError

    from schemas.config import AuditConfig
    from schemas.explain import explain

    given = {name: value for name, value in asked.items() if value is not None}
    try:
        return AuditConfig.model_validate({**config.model_dump(), **given})
    except ValidationError as error:
        raise ConfigError(explain(error.errors(), AuditConfig)) from error


def _audited(
    config: "PipelineConfig", store: "Store", wanted: "AuditConfig", given: str, cluster: str
) -> "Artifact":
    from flows.line import plainly
    from flows.told import told
    from infra import ray_cluster
    from tasks.audit import audit as look_over

    try:
        inputs = (
            _with_model(config, store, wanted, given)
            if given
            else _with_stage1(config, store, cluster)
        )
    finally:
        ray_cluster.leave()
    return told(plainly)("audit", look_over, wanted, inputs, store=store)


def _with_stage1(config: "PipelineConfig", store: "Store", cluster: str) -> "AuditInputs":
    """The snapshot of a run of this config, and its own head."""
    from flows.line import pipeline, plainly, up_to
    from flows.told import told
    from tasks.audit import AuditInputs

    made = up_to(pipeline(config, store=store, do=told(plainly), cluster=cluster), "stage1")
    return AuditInputs(
        samples=made["ingest"],
        labelled=made["validate"],
        features=made["encode"],
        model=made["stage1"],
    )


def _with_model(
    config: "PipelineConfig", store: "Store", wanted: "AuditConfig", given: str
) -> "AuditInputs":
    """The snapshot of this config, encoded by the base of the model that is given."""
    from flows.line import pipeline, plainly, up_to
    from flows.told import told
    from tasks.answer import base_of, trained
    from tasks.audit import AuditInputs, check_taxonomy
    from tasks.encode import encode

    model, do = trained(given), told(plainly)
    check_taxonomy(wanted, model, store=store)
    made = up_to(pipeline(config, store=store, do=do), "validate")
    samples, labelled = made["ingest"], made["validate"]
    features = do("encode", encode, config.encode, labelled, samples, base_of(model), store=store)
    return AuditInputs(samples=samples, labelled=labelled, features=features, model=model)


def _tell(found: "Artifact", store: "Store", *, json: bool) -> None:
    from flows.cli import show
    from tasks.audit import read_audit

    if json:
        show.as_json(found)
        return

    terminal = console(WIDTH)
    report = read_audit(found, store=store)
    terminal.print(_table(report))
    if left := ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in report.left_out.items() if n):
        terminal.print(f"not looked at: {left}", soft_wrap=True)
    for name, inside in INSIDE.items():
        terminal.print(f"{name:<7} {show.place(store, found, inside)}", soft_wrap=True)


def _table(report: "AuditReport") -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = (
        f"labels that {report.model.partition('/')[0]} disputes by a log-odds of {report.margin:g}"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("source", overflow="fold")
    for name in ("rows", "type disputed", "level alone"):
        table.add_column(name, justify="right")
    table.add_column("most of them: stated → seen", overflow="fold")
    for source in report.sources:
        share = f"{source.disputed} ({source.disputed / source.rows:.1%})"
        table.add_row(
            source.source, str(source.rows), share, str(source.level_disputed), _kinds(source)
        )
    return table


def _kinds(source: "SourceAudit") -> str:
    kinds = [f"{kind.stated} → {kind.seen} {kind.rows}" for kind in source.kinds]
    rest = sum(kind.rows for kind in source.kinds[KINDS:])
    return ", ".join([*kinds[:KINDS], *([f"{rest} others"] if rest else [])])
