"""The flow `psavlm-ablation`, deployed as `psavlm-ablation/ablation`: one line, many methods.

What does not depend on the method is made once: world, samples, labels, base and features. Then
one task per method and seed trains what the method has, and evaluates it on the same items.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from prefect import flow

from flows.full_pipeline import DAY_S
from flows.judging import in_use
from flows.outcome import Outcome
from flows.page import link_run, log, warn
from flows.parameters import Cluster, Preset, Ratio, Root, Sources, check_inputs, configured
from flows.points import Ended, Point, Runner, check_failures, shared
from flows.process import note_process
from flows.steps import as_task
from flows.table_page import show_table
from flows.told import told
from infra.store import Store
from schemas.ablation import (
    METHODS,
    SEEDS,
    AblationParameters,
    HoldOut,
    MethodPoint,
    Methods,
    label,
)
from schemas.artifact import Artifact
from schemas.config import HeldOut
from schemas.sweep import Seeds
from tasks.ablation import ablation_table
from tasks.ablation.step import table_for_page
from tasks.ablation.tracking import log_ablation
from tasks.credentials import use_credentials


@flow(
    name="psavlm-ablation", persist_result=False, timeout_seconds=DAY_S, on_running=[note_process]
)
def ablation(  # noqa: PLR0913 - a run's parameters are top-level scalars
    methods: Methods = METHODS,
    seeds: Seeds = SEEDS,
    hold_out_sources: HoldOut = [],  # noqa: B006 - a run's parameters are plain JSON, never changed
    hold_out_types: HoldOut = [],  # noqa: B006
    preset: Preset = "tiny-hard",
    root: Root = ".psavlm/store",
    sources: Sources = (),
    base: str = "",
    clean_per_unsafe: Ratio | None = None,
    stage2_clean_per_unsafe: Ratio | None = None,
    cluster: Cluster = "",
) -> Outcome:
    """Train and evaluate every method with every seed; the table, and all that is behind it.

    Args:
        methods: shipped names, or .toml files that name every part.
        seeds: each, 0 or more, of the training order and of both stages.
        hold_out_sources: train every method once more without each of these sources, judged on
            what the test split has of it; * stands for any letters, as in "second-style*".
        hold_out_types: the same for risk types.
        preset: a shipped name (tiny, tiny-hard, llava-1.5-7b-24gb, llava-1.5-7b-48gb,
            llava-1.5-7b-80gb, llava-1.5-7b-8x80gb), the path of a .toml file or its s3:// URI.
        root: where artifacts go: a folder or s3://bucket/prefix.
        sources: data sets in place of the preset's, such as {"format": "table", "uri": "my.csv"}.
        base: base model: a folder, s3://bucket/folder or hub name[@revision]; empty is the
            preset's own.
        clean_per_unsafe: clean items per unsafe one in stage 1's training order, 0 to 1000000.
        stage2_clean_per_unsafe: the same for stage 2.
        cluster: host:port of a Ray head, or the http(s) address of its dashboard; empty is that of
            `make up`, or one of the ablation's own.
    """
    use_credentials()
    asked = AblationParameters.checked(
        {"methods": methods, "seeds": seeds}
        | {"hold_out_sources": hold_out_sources, "hold_out_types": hold_out_types}
    )
    given = {
        "preset": preset, "sources": sources, "base": base, "clean_per_unsafe": clean_per_unsafe,
        "stage2_clean_per_unsafe": stage2_clean_per_unsafe,
    }  # fmt: skip
    points = planned(asked, given)
    check_inputs(points[0].config)
    store = Store(root)
    warn(store.check())
    shared(points[0].config, store, cluster)
    ended = Runner(store, cluster, partial(in_use, store=store)).run_all(points)
    check_failures(ended)
    done = [end.done or _failed(end) for end in ended]
    do = told(as_task, also=log)
    table = do("ablation", ablation_table, asked, points[0].config.evaluate, done, store=store)
    mlflow = show_table(table, table_for_page(table, store=store), store)
    link_run(as_task("log in MLflow", log_ablation, table, done, store=store), mlflow)
    return Outcome(artifacts={"ablation": table, **behind(done)})


def planned(asked: AblationParameters, given: Mapping[str, Any]) -> list[Point]:
    """Every method and seed with its config, all of them checked before anything is made.

    Raises:
        ConfigError: a method that is none, or one that the preset does not say how to train.
    """
    points = [
        Point(label(method), seed, configured({**given, "method": method, "seed": seed}))
        for seed in asked.seeds
        for method in asked.methods
    ]
    held = [HeldOut(sources=(name,)) for name in asked.hold_out_sources]
    held += [HeldOut(types=(name,)) for name in asked.hold_out_types]
    return points + [
        Point(
            label(method), seed,
            configured({**given, "method": method, "seed": seed, "held_out": own}), own,
        )
        for seed in asked.seeds
        for method in asked.methods
        if any(p.label == label(method) and p.config.stages for p in points)
        for own in held
    ]  # fmt: skip


def behind(points: Sequence[MethodPoint]) -> dict[str, Artifact]:
    """The models and evaluations behind the table, by method and seed."""
    return {
        f"{point.name}/{what}": artifact
        for point in points
        for what, artifact in (
            ("model", point.model),
            ("evaluation", point.evaluated),
            *((f"{stage} both ways", both) for stage, both in point.both_ways.items()),
        )
        if artifact is not None
    }


def _failed(end: Ended[MethodPoint]) -> MethodPoint:
    point = end.point
    return MethodPoint(
        method=point.label, seed=point.seed, parts=point.config.method, error=end.error,
        held_out=point.held_out,
    )  # fmt: skip
