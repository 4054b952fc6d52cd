"""`psavlm probe`: what stage 1 has learnt, as a straight line can read it."""

from typing import TYPE_CHECKING, Annotated

import typer

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
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from infra.store import Store
    from schemas.artifact import Artifact
    from schemas.config import PipelineConfig


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    app.command("probe", epilog="Example: psavlm probe --methods psa-vlm,psavlm-plus")(probe)


def probe(  # noqa: PLR0913 - the options are the flow's parameters
    methods: Annotated[
        str,
        typer.Option(
            help="Methods whose stage 1 is probed: the first one's projector and head, the tokens "
            "of all; empty is psa-vlm,psavlm-plus."
        ),
    ] = "",
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of training order and stages; 1 is an ablation's first."),
    ] = 1,
    preset: Preset = "tiny-hard",
    root: Root = DEFAULT_ROOT,
    source: Source = None,
    base: Base = "",
    clean_per_unsafe: Ratio = None,
    stage2_clean_per_unsafe: Ratio2 = None,
    cluster: Cluster = "",
    json: Json = False,
) -> None:
    """Probe what stage 1 isolates, and its head on balanced items; a table and a picture."""
    from schemas.ablation import label
    from schemas.probe import PROBED

    names = methods.split(",") if methods else list(PROBED)
    if len({label(name) for name in names}) < len(names):
        raise ConfigError(f"methods {methods!r} names one twice: give each once")
    models: dict[str, Artifact] = {}
    for name in names:
        choice = Choice(
            preset, root, source, base, name, clean_per_unsafe, stage2_clean_per_unsafe, seed
        )
        with started(choice, "stage1", cluster) as (config, store):
            made = _stage1(config, store, cluster)
            models[label(name)] = made["stage1"]
    _tell(_probed(config, made, models, seed, store), store, json=json)


def _stage1(config: "PipelineConfig", store: "Store", cluster: str) -> "dict[str, Artifact]":
    from flows.line import pipeline, plainly, up_to
    from flows.told import told
    from infra import ray_cluster

    try:
        return up_to(pipeline(config, store=store, do=told(plainly), cluster=cluster), "stage1")
    finally:
        ray_cluster.leave()


def _probed(
    config: "PipelineConfig",
    made: "dict[str, Artifact]",
    models: "dict[str, Artifact]",
    seed: int,
    store: "Store",
) -> "Artifact":
    """The probes of models that share `made`: the same data, base and features."""
    from flows.line import plainly
    from flows.told import told
    from schemas.probe import ProbeConfig
    from tasks.probe import ProbeInputs
    from tasks.probe import probe as look

    inputs = ProbeInputs(
        labelled=made["validate"], features=made["encode"], base=made["base"], models=models,
        seed=seed,
    )  # fmt: skip
    asked = ProbeConfig(taxonomy=config.evaluate.taxonomy)
    return told(plainly)("probe", look, asked, inputs, store=store)


def _tell(found: "Artifact", store: "Store", *, json: bool) -> None:
    from flows.cli import show
    from tasks.sweep.files import opened_first, read_text

    if json:
        show.as_json(found)
        return
    typer.echo(read_text(found, store=store))
    for file in opened_first(found, store=store):
        typer.echo(file)
