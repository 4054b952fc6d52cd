"""The pipeline as a straight line of steps: sources to the report on the evaluated arms."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import PipelineConfig
from tasks.balance import balance
from tasks.base_model import base_model
from tasks.encode import encode
from tasks.evaluate import evaluate
from tasks.ingest import ingest
from tasks.promote import PromoteInputs
from tasks.report import ReportInputs, report
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

    Args:
        config: the run's config.
        store: where artifacts live.
        do: calls a step: `do(name, step, *args, **kwargs)`, plainly or as a Prefect task.
        cluster: address of a Ray cluster; empty starts one for the training steps. A large
            source is decoded there too, if it has more CPUs than this machine.
    """
    world = None
    run: dict[str, Any] = {"store": store, "cluster": cluster}
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
    features = do("encode", encode, config.encode, labelled, samples, base, store=store)
    yield "encode", features
    inputs = Inputs(base=base, balanced=concepts, features=features, labelled=labelled)
    stage1 = do("stage1", train, config.stage1, inputs, **run)
    yield "stage1", stage1
    inputs = Inputs(base=base, balanced=aligned, features=features, labelled=labelled, start=stage1)
    stage2 = do("stage2", train, config.stage2, inputs, **run)
    yield "stage2", stage2
    arms = {}
    for arm, model in (("base", None), ("stage1", stage1), ("stage2", stage2)):
        arms[arm] = do(
            f"evaluate {arm}", evaluate, config.evaluate, arm, base, labelled, features,
            store=store, model=model,
        )  # fmt: skip
        yield f"evaluate/{arm}", arms[arm]
    told = ReportInputs(
        samples=samples, labelled=labelled, concepts=concepts, aligned=aligned, base=base,
        features=features, stage1=stage1, stage2=stage2, evaluations=arms,
    )  # fmt: skip
    yield "report", do("report", report, config.report, told, store=store)


def evidence(config: PipelineConfig, artifacts: Mapping[str, Artifact]) -> PromoteInputs:
    """What the gate looks at: the last stage of a finished line, its evaluation and the base's."""
    return PromoteInputs(
        model=artifacts["stage2"],
        evaluation=artifacts["evaluate/stage2"],
        base=artifacts["base"],
        base_evaluation=artifacts["evaluate/base"],
        samples=artifacts["ingest"],
        labelled=artifacts["validate"],
        features=artifacts["encode"],
        evaluate=config.evaluate,
        encode=config.encode,
        report=artifacts.get("report"),
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
