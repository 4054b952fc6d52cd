"""The pipeline as a straight line of steps: sources to the report on the evaluated arms."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from infra.cluster_address import check_cluster, to_join
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import MethodConfig, PipelineConfig, Stage
from schemas.errors import ConfigError
from tasks.attack import AttackInputs, attack
from tasks.balance import balance
from tasks.base_model import base_model
from tasks.encode import encode
from tasks.evaluate import evaluate
from tasks.examine import examine
from tasks.ingest import ingest
from tasks.promote import PromoteInputs
from tasks.report import ReportInputs, report
from tasks.respond import stored
from tasks.tiny_world.world import tiny_world
from tasks.train import Inputs, train
from tasks.validate import validate

Do = Callable[..., Artifact]
# What `until` may name, in order.
STEPS = (
    "world", "ingest", "validate", "balance", "base", "encode", "stage1", "stage2", "evaluate",
    "report", "promote",
)  # fmt: skip


def pipeline(
    config: PipelineConfig, *, store: Store, do: Do, cluster: str = ""
) -> Iterator[tuple[str, Artifact]]:
    """Run step after step, as far as it is asked for; yields (step, artifact).

    A step that the config's method does not have is left out.

    Args:
        config: the run's config.
        store: where artifacts live.
        do: calls a step: `do(name, step, *args, **kwargs)`, plainly or as a Prefect task.
        cluster: address of a Ray cluster; empty starts one for the training steps. A large
            source is decoded there too, if it has more CPUs than this machine. To a jobs API
            (http, https) the training steps are submitted, and the others run here.

    Raises:
        ConfigError: no such address, or a root that the cluster cannot see.
    """
    if cluster:
        check_cluster(cluster, store.root)
    world = None
    run: dict[str, Any] = {"store": store, "cluster": to_join(cluster)}
    if config.world is not None:
        world = do("world", tiny_world, config.world, store=store)
        yield "world", world
    samples = do("ingest", ingest, config.ingest, world, **run)
    yield "ingest", samples
    labelled = do("validate", validate, config.validation, samples, store=store)
    yield "validate", labelled
    concepts = do("balance", balance, config.balance, labelled, store=store)
    aligned = do("balance for stage 2", balance, config.stage2_balance, labelled, store=store)
    yield "balance", concepts
    base = do("base", base_model, config.base, store=store)
    yield "base", base
    features = do("encode", encode, config.encode, labelled, samples, base, **run)
    yield "encode", features
    inputs = Inputs(base=base, balanced=concepts, features=features, labelled=labelled)
    arms: dict[str, Artifact | MethodConfig | None] = {"base": None}
    for name, stage in trained(config, inputs, aligned, do=do, store=store, cluster=cluster):
        arms[name] = stage
        yield name, stage
    if config.method.concepts == "labels":
        arms["oracle"] = config.method
    judged = {}
    for name, told in evaluated(config, arms, inputs, do=do, **run):
        judged[name] = told
        yield name, told
    stages = {name: model for name, model in arms.items() if isinstance(model, Artifact)}
    attacked = None
    if config.attack is not None and stages:
        victim = AttackInputs(model=stages[config.last_arm], base=base, labelled=labelled)
        attacked = do("attack", attack, config.attack, victim, store=store)
        yield "attack", attacked
    parts = ReportInputs(
        samples=samples, labelled=labelled, concepts=concepts, aligned=aligned, base=base,
        features=features, evaluations=_under("evaluate/", judged),
        benchmarks=_under("benchmark/", judged), attack=attacked, **stages,
    )  # fmt: skip
    yield "report", do("report", report, config.report, parts, store=store)


def trained(
    config: PipelineConfig, inputs: Inputs, aligned: Artifact, *, do: Do, store: Store, cluster: str
) -> Iterator[tuple[str, Artifact]]:
    """The stages that the method has: the second goes on from the first, if there is one.

    Args:
        config: the run's config.
        inputs: of stage 1.
        aligned: the training order of stage 2.
        do: calls a step.
        store: where artifacts live.
        cluster: address of a Ray cluster.
    """
    first = None
    if Stage.CONCEPTS in config.stages:
        first = do("stage1", train, config.stage1, inputs, store=store, cluster=cluster)
        yield "stage1", first
    if Stage.ALIGNMENT in config.stages:
        inputs = Inputs.model_validate({**dict(inputs), "balanced": aligned, "start": first})
        yield "stage2", do("stage2", train, config.stage2, inputs, store=store, cluster=cluster)


def evaluated(
    config: PipelineConfig,
    arms: Mapping[str, Artifact | MethodConfig | None],
    inputs: Inputs,
    *,
    do: Do,
    store: Store,
    cluster: str,
) -> Iterator[tuple[str, Artifact]]:
    """The step `evaluate`: every arm on the held-out items, base and last stage on benchmarks.

    Yields (`evaluate/arm` or `benchmark/name/arm`, artifact).

    Args:
        config: the run's config.
        arms: a trained stage, an oracle's method, or None for the base, by name.
        inputs: of stage 1: base, labelled rows and features.
        do: calls a step.
        store: where artifacts live.
        cluster: address of a Ray head for several workers.
    """
    base, seen = inputs.base, (inputs.base, inputs.labelled, inputs.features)
    how, run = config.evaluate, {"store": store, "cluster": cluster}
    for arm, model in arms.items():
        told = do(f"evaluate {arm}", evaluate, how, arm, *seen, model=model, **run)
        yield f"evaluate/{arm}", told
    asked = {"base": stored(base, how=how)}
    if isinstance(last := arms[config.last_arm], Artifact):
        asked[config.last_arm] = stored(base, last, how)
    for one in config.benchmarks:
        for arm, responder in asked.items():
            name = f"benchmark {one.name} {arm}"
            told = do(name, examine, one, responder, workers=how.workers, **run)
            yield f"benchmark/{one.name}/{arm}", told


def _under(start: str, made: Mapping[str, Artifact]) -> dict[str, Artifact]:
    return {name.removeprefix(start): a for name, a in made.items() if name.startswith(start)}


def end_of_evaluation(config: PipelineConfig) -> str:
    """The name of the last artifact of the step `evaluate`: an arm's, or a benchmark's."""
    if not config.benchmarks:
        return f"evaluate/{config.last_arm}"
    arm = config.last_arm if config.stages else "base"
    return f"benchmark/{config.benchmarks[-1].name}/{arm}"


def evidence(config: PipelineConfig, artifacts: Mapping[str, Artifact]) -> PromoteInputs:
    """What the gate looks at: the last stage of a finished line, its evaluation and the base's.

    Raises:
        ConfigError: the method trains nothing.
    """
    if not config.stages:
        raise ConfigError(
            "this method trains nothing, so there is no model for the gate: choose a method that "
            "does, such as psa-vlm, or leave promotion out"
        )
    return PromoteInputs(
        model=artifacts[config.last_arm],
        evaluation=artifacts[f"evaluate/{config.last_arm}"],
        base=artifacts["base"],
        base_evaluation=artifacts["evaluate/base"],
        samples=artifacts["ingest"],
        labelled=artifacts["validate"],
        features=artifacts["encode"],
        evaluate=config.evaluate,
        encode=config.encode,
        report=artifacts.get("report"),
        preset=PurePath(config.preset).name,
    )


def plainly(name: str, step: Callable[..., Artifact], *args: Any, **kwargs: Any) -> Artifact:
    """Call a step as the function that it is."""
    return step(*args, **kwargs)


def up_to(made: Iterator[tuple[str, Artifact]], until: str | None) -> dict[str, Artifact]:
    """Take steps up to and including `until` (all of them if None); later ones never start."""
    artifacts = {}
    for name, artifact in made:
        artifacts[name] = artifact
        if name == until:
            break
    return artifacts
