"""The flow `psavlm-sweep`, deployed as `psavlm-sweep/ratio-sweep`: one line, many ratios.

What does not depend on the ratio is made once: world, samples, labels, base and features. Then one
task per ratio and seed trains and evaluates. All ratios train equally many items and steps.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from prefect import flow

from flows.full_pipeline import DAY_S
from flows.judging import at_operating_points
from flows.line import evidence, pipeline, up_to
from flows.outcome import Outcome
from flows.page import link_run, log, warn
from flows.parameters import (
    Cluster,
    Method,
    Preset,
    Ratio,
    Root,
    Sources,
    check_inputs,
    configured,
)
from flows.points import Ended, Point, Runner, check_failures, shared
from flows.process import note_process
from flows.steps import as_task
from flows.table_page import show_table
from flows.told import told
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import Count, Fraction, PipelineConfig
from schemas.errors import ConfigError
from schemas.gate import load_gate
from schemas.sweep import Ratios, Seeds, StageResult, SweepParameters, SweepPoint
from tasks import promote as registry
from tasks.balance import common_total
from tasks.credentials import use_credentials
from tasks.progress import say
from tasks.promote import PromoteInputs
from tasks.sweep import sweep_table
from tasks.sweep.files import read_rows
from tasks.sweep.pareto import best_point
from tasks.sweep.step import table_for_page
from tasks.sweep.tracking import log_sweep

RATIOS, SEEDS = [0.3, 1.0, 3.0, 10.0], [1]


@flow(name="psavlm-sweep", persist_result=False, timeout_seconds=DAY_S, on_running=[note_process])
def ratio_sweep(  # noqa: PLR0913 - a run's parameters are top-level scalars
    ratios: Ratios = RATIOS,
    seeds: Seeds = SEEDS,
    preset: Preset = "tiny-hard",
    root: Root = ".psavlm/store",
    sources: Sources = (),
    base: str = "",
    method: Method = "",
    stage2_clean_per_unsafe: Ratio | None = None,
    total: Count | None = None,
    false_positive_rate: Fraction = 0.05,
    cluster: Cluster = "",
    promote: bool = False,
) -> Outcome:
    """Train and evaluate at every ratio and seed; the table, and all that is behind it.

    Args:
        ratios: clean items per unsafe one, 0 to 1000000 each.
        seeds: each, 0 or more, of the training order and of both stages.
        preset: a shipped name (tiny, tiny-hard, llava-1.5-7b-24gb, llava-1.5-7b-48gb,
            llava-1.5-7b-80gb, llava-1.5-7b-8x80gb), the path of a .toml file or its s3:// URI.
        root: where artifacts go: a folder or s3://bucket/prefix.
        sources: data sets in place of the preset's, such as {"format": "table", "uri": "my.csv"}.
        base: base model: a folder, s3://bucket/folder or hub name[@revision]; empty is the
            preset's own.
        method: a shipped variant or a .toml file; empty is the preset's own.
        stage2_clean_per_unsafe: one ratio for stage 2 of all points; None follows stage 1's.
        total: items an epoch for every ratio; None is the most that all can be drawn from.
        false_positive_rate: share of benign items that every guard may flag where matched.
        cluster: host:port of a Ray head, or the http(s) address of its dashboard; empty is that of
            `make up`, or one of the sweep's own.
        promote: let the gate decide on the best Pareto point; otherwise nothing is registered.
    """
    use_credentials()
    sweep = SweepParameters.checked(
        {"ratios": ratios, "seeds": seeds, "total": total}
        | {"false_positive_rate": false_positive_rate}
    )
    asked: dict[str, Any] = {"preset": preset, "sources": sources, "base": base, "method": method}
    asked |= {"stage2_clean_per_unsafe": stage2_clean_per_unsafe}
    config = configured(asked)
    if not config.stages:
        raise ConfigError("this method trains nothing, so no ratio matters to it: choose another")
    check_inputs(config)
    gate = load_gate(config.gate)
    store = Store(root)
    warn(store.check())
    labelled = shared(config, store, cluster)
    points = planned(asked, sweep, labelled, store=store)
    judge = partial(at_operating_points, store=store, rate=sweep.false_positive_rate)
    ended = Runner(store, cluster, judge).run_all(points)
    check_failures(ended)
    done = [as_sweep_point(end) for end in ended]
    do = told(as_task, also=log)
    table = do("sweep", sweep_table, sweep, points[0].config.evaluate, done, store=store)
    mlflow = show_table(table, table_for_page(table, store=store), store)
    link_run(as_task("log in MLflow", log_sweep, table, done, store=store), mlflow)
    decision = None
    if promote:
        inputs = proposed(table, points, store=store, cluster=cluster)
        tried = sum(not point.error for point in done)
        decision = do("promote", registry.promote, gate, inputs, store=store, tried=tried)
    return Outcome(artifacts={"sweep": table, **behind(done)}, decision=decision)


def planned(
    asked: Mapping[str, Any], sweep: SweepParameters, labelled: Artifact, *, store: Store
) -> list[Point]:
    """Every ratio and seed with its config: as many items an epoch for all of them.

    Raises:
        DataError: no ratio can be drawn from the labelled rows.
    """
    drafts = [
        Point(
            f"ratio {ratio:g}", seed,
            configured({**asked, "clean_per_unsafe": ratio, "seed": seed}),
        )
        for seed in sweep.seeds
        for ratio in sweep.ratios
    ]  # fmt: skip
    total = sweep.total
    if total is None:
        orders = [o for p in drafts for o in (p.config.balance, p.config.stage2_balance)]
        total = common_total(orders, labelled, store=store)
    say(f"{total} items an epoch for every ratio")
    return [Point(p.label, p.seed, _sized(p.config, total)) for p in drafts]


def as_sweep_point(end: Ended[dict[str, StageResult]]) -> SweepPoint:
    """A point as the table's step takes it."""
    return SweepPoint(
        ratio=_ratio(end.point), seed=end.point.seed, stages=end.done or {}, error=end.error,
        reused=end.reused,
    )  # fmt: skip


def proposed(
    table: Artifact, points: Sequence[Point], *, store: Store, cluster: str
) -> PromoteInputs:
    """Finish the best Pareto point's line, with evaluations and report: what the gate looks at."""
    chosen = best_point(read_rows(table, store=store))
    config = next(p.config for p in points if (_ratio(p), p.seed) == chosen)
    steps = pipeline(config, store=store, do=told(as_task, also=log), cluster=cluster)
    return evidence(config, up_to(steps, None))


def behind(points: Sequence[SweepPoint]) -> dict[str, Artifact]:
    """The models and evaluations behind the table, by ratio, seed and stage."""
    return {
        f"ratio {point.ratio:g} seed {point.seed}/{stage}{suffix}": artifact
        for point in points
        for stage, result in point.stages.items()
        for suffix, artifact in (("", result.model), ("/evaluation", result.evaluated))
    }


def _ratio(point: Point) -> float:
    return point.config.balance.clean_per_unsafe


def _sized(config: PipelineConfig, total: int) -> PipelineConfig:
    tree = config.model_dump()
    for name in ("balance", "stage2_balance"):
        tree[name] |= {"size": "fixed_total", "total": total}
    return PipelineConfig.model_validate(tree)
