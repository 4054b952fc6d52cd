"""The longer proof of the attacks (`make prove`): a trained model of the harder tiny world."""

import pytest
import torch

from flows.line import pipeline, plainly, up_to
from infra import ray_cluster
from infra.store import Store
from schemas.artifact import Artifact
from schemas.attack import ANY, NOISE, NOTHING, UNBOUNDED, AttackConfig, AttackReport
from schemas.presets import Parameters, resolve
from tasks.attack import attack, attack_inputs, read_attack
from tests.benchmarks.record import record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
CONFIG = AttackConfig(
    items=72, benign=12, restarts=1, targets=("joint", "head", "tokens"), wordings="tiny",
    max_new_tokens=24, batch=64,
)  # fmt: skip


def flat(stage: str, report: AttackReport) -> dict[str, float]:
    """What goes wrong, by attack and budget; by type unchanged, after noise and the worst."""
    told = {}
    for row in report.rows:
        if row.type and row.attack not in (NOTHING, NOISE, ANY):
            continue
        side = row.type or ("risky" if row.risky else "benign")
        for goal, metric in row.metrics.items():
            told[f"{stage}.{row.attack}.{row.eps}.{side}.{goal}"] = round(metric.value, 4)
    return told


def reached(report: AttackReport, goal: str) -> dict[tuple[str, int], float]:
    """What the attacks reach on all risky items."""
    own = [row for row in report.rows if row.risky and not row.type]
    return {(row.attack, row.eps): row.metrics[goal].value for row in own}


def test_gradients_break_what_noise_does_not(encoded_root: str) -> None:
    """Budgets of 2, 4 and 8/255 on both stages of tiny-hard; noise of the same size beside them."""
    torch.set_num_threads(1)
    store = Store(encoded_root)
    config = resolve(Parameters(preset="tiny-hard"))
    try:
        made = up_to(pipeline(config, store=store, do=plainly), "stage2")
    finally:
        ray_cluster.leave()
    stages = {stage: made[stage] for stage in ("stage1", "stage2")}
    record("attacks", measured(store, stages))


def measured(store: Store, stages: dict[str, Artifact]) -> dict[str, float]:
    """What attacks leave of each stage, after a look at whether that can be."""
    numbers = {}
    for stage, model in stages.items():
        found = attack(CONFIG, attack_inputs(model), store=store)
        report = read_attack(found, store=store)
        numbers |= flat(stage, report)
        passed = reached(report, "misjudged")
        assert passed["joint", 2] <= passed["joint", 4] <= passed["joint", 8]
        assert passed["joint", 8] > passed[NOISE, 8] + 0.3
        assert passed[NOISE, 8] < passed[NOTHING, 0] + 0.15
        assert passed[UNBOUNDED, 255] >= 0.95
        assert report.checks[0].passed
        # After stage 1 only a hint protects the answer: the guard beaten, it is given.
        assert stage == "stage2" or reached(report, "broken")["joint", 8] > 0.5
    return numbers
