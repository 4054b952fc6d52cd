"""The flow `psavlm`, deployed as `psavlm/full-pipeline`: the whole line under Prefect's eyes."""

from prefect import flow

from flows.line import evidence, pipeline, up_to
from flows.outcome import Outcome
from flows.page import log, show, warn
from flows.parameters import (
    Cluster,
    Method,
    Preset,
    Ratio,
    Root,
    Seed,
    Sources,
    Step,
    check_inputs,
    checked_until,
    configured,
)
from flows.plan import refused
from flows.process import note_process
from flows.steps import as_task
from flows.told import told
from infra.store import Store
from schemas.gate import load_gate
from tasks.credentials import use_credentials
from tasks.promote import promote as decide
from tasks.promote import register_candidate

DAY_S = 24 * 3600


@flow(name="psavlm", persist_result=False, timeout_seconds=DAY_S, on_running=[note_process])
def full_pipeline(  # noqa: PLR0913 - a run's parameters are top-level scalars
    preset: Preset = "tiny",
    root: Root = ".psavlm/store",
    sources: Sources = (),
    base: str = "",
    method: Method = "",
    clean_per_unsafe: Ratio | None = None,
    stage2_clean_per_unsafe: Ratio | None = None,
    seed: Seed | None = None,
    cluster: Cluster = "",
    until: Step | None = None,
    promote: bool = True,
) -> Outcome:
    """Raw data with risk labels to an evaluated, safety-aligned and registered model.

    Args:
        preset: a shipped name (tiny, tiny-hard, llava-1.5-7b-24gb, llava-1.5-7b-48gb,
            llava-1.5-7b-80gb, llava-1.5-7b-8x80gb), the path of a .toml file or its s3:// URI.
        root: where artifacts go: a folder or s3://bucket/prefix.
        sources: data sets in place of the preset's, such as {"format": "table", "uri": "my.csv"}.
        base: base model: a folder, s3://bucket/folder or hub name[@revision]; empty is the
            preset's own.
        method: a shipped variant or a .toml file; empty is the preset's own.
        clean_per_unsafe: clean items per unsafe one in stage 1's training order, 0 to 1000000.
        stage2_clean_per_unsafe: the same for stage 2.
        seed: of the training order and of both stages, 0 or more.
        cluster: host:port of a Ray head, or the http(s) address of its dashboard; empty is that of
            `make up`, or one of the run's own.
        until: the last step to run: world, ingest, validate, balance, base, encode, stage1, stage2,
            evaluate, report or promote; empty means all.
        promote: let the gate decide on the model; otherwise it is registered as a candidate only.
            A method that trains nothing has no model, and neither is done.
    """
    asked = {
        "preset": preset,
        "sources": sources,
        "base": base,
        "method": method,
        "clean_per_unsafe": clean_per_unsafe,
        "stage2_clean_per_unsafe": stage2_clean_per_unsafe,
        "seed": seed,
    }
    use_credentials()
    config = configured(asked)
    check_inputs(config)
    gate = load_gate(config.gate)
    for why in refused(config) if promote and until in (None, "promote") else ():
        warn(f"the gate will refuse this run: {why}")
    store = Store(root)
    warn(store.check())
    do = told(as_task, also=log)
    steps = pipeline(config, store=store, do=do, cluster=cluster)
    artifacts = up_to(steps, checked_until(until, config))
    decision, model = None, None
    if until in (None, "promote") and config.stages:
        inputs = evidence(config, artifacts)
        model = inputs.model
        if promote:
            decision = do("promote", decide, gate, inputs, store=store)
        else:
            do("register", register_candidate, inputs, store=store)
    outcome = Outcome(artifacts=artifacts, decision=decision)
    show(outcome, store, model=model)
    return outcome
