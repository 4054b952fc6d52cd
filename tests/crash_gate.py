"""Interrupted: promotion, refusal and rollback, with the registry's calls."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.decisions import read_decisions
from infra.fingerprint import content_hash
from infra.registry import Registry
from infra.registry.connect import connected, exists
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from schemas.gate import load_gate
from schemas.policies import operators_policy
from schemas.taxonomy import load_taxonomy
from tasks.base_model import libraries
from tasks.evaluate.metrics import arm_report
from tasks.evaluate.step import ITEMS, REPORT, VERSION
from tasks.promote import PromoteInputs, promote, rollback
from tasks.promote.history import History
from tests.crash_scenario import Scenario

EMPTY = Path("../../empty.db")
RISKY, BENIGN, NEAR = 200, 300, 50
EVALUATE = EvaluateConfig(bootstrap=2)
# How many of the risky requests a model obeys; the base obeys all.
OBEYED = {"middling": 100, "good": 20, "bad": 150}


@dataclass(frozen=True)
class Items:
    """What is asked: near misses beside the risky and ordinary items of a world of that name."""

    near: int = NEAR
    world: str = ""


USUAL = Items()


def _judged(obeyed: int, items: Items) -> list[dict[str, Any]]:
    """Judged rows as an evaluation has them."""
    rows = []
    for number in range(RISKY + BENIGN + items.near):
        risky, name = number < RISKY, content_hash([items.world, number])
        outcome = ("obeyed" if number < obeyed else "refused") if risky else "answered"
        rows.append(
            {
                "sample_id": name, "source": "s", "group_id": name, "image_id": name,
                "risk_type": "privacy" if risky else "clean", "risk_level": 2 if risky else 0,
                "near_miss": number >= RISKY + BENIGN, "style": "", "question": f"{number} ?",
                "reference": "two", "answer": outcome, "outcome": outcome,
                "exact": outcome != "obeyed", "names_type": outcome == "refused",
                "judge": "exact_targets", "flagged": None, "risk": None, "seen_type": None,
                "seen_level": None,
            }
        )  # fmt: skip
    return rows


def _evaluated(
    root: str,
    arm: str,
    parents: Mapping[str, Artifact],
    *,
    rows: list[dict[str, Any]],
    config: EvaluateConfig,
) -> Artifact:
    """What `evaluate` makes of these parents if the model's answers are judged so."""

    def build(folder: Path) -> dict[str, int]:
        pq.write_table(pa.Table.from_pylist(rows), folder / ITEMS)
        report = arm_report(arm, rows, config, load_taxonomy())
        (folder / REPORT).write_text(report.model_dump_json())
        return {"items": len(rows)}

    taxonomy = load_taxonomy(config.taxonomy)
    told = {"taxonomy": taxonomy, "policy": operators_policy(config.policy, taxonomy=taxonomy)}
    return Store(root).artifact(
        "evaluate",
        VERSION,
        config={"arm": arm, **config.model_dump()},
        parents=parents,
        # As the step names them: the gate finds a champion's answers instead of asking it again.
        inputs={**{name: content_hash(part) for name, part in told.items()}, **libraries()},
        build=build,
    )


def _made(root: str, step: str, name: str, **parents: Artifact) -> Artifact:
    def build(folder: Path) -> dict[str, int]:
        (folder / "text").write_text(name)
        return {}

    return Store(root).artifact(step, 1, config={"name": name}, parents=parents, build=build)


def candidate(
    root: str, name: str, config: EvaluateConfig = EVALUATE, items: Items = USUAL
) -> PromoteInputs:
    """A model of that name with all that the gate looks at."""
    base, features = (_made(root, s, s) for s in ("base_model", "encode"))
    labelled = _made(root, "validate", "validate" if items == USUAL else str(items))
    model = _made(root, "stage2", name, base=base)
    parents = {"base": base, "labelled": labelled, "features": features}
    mine, its = (_judged(obeyed, items) for obeyed in (OBEYED[name], RISKY))
    own = {**parents, "model": model}
    return PromoteInputs(
        model=model,
        evaluation=_evaluated(root, "stage2", own, rows=mine, config=config),
        base=base,
        base_evaluation=_evaluated(root, "base", parents, rows=its, config=config),
        samples=_made(root, "ingest", "samples"),
        labelled=labelled,
        features=features,
        evaluate=config,
    )


def asked(name: str) -> Callable[[str], None]:
    """A model before the gate."""

    def ask(root: str) -> None:
        decision = promote(load_gate("default"), candidate(root, name), store=Store(root))
        assert (decision.action == "refused") == (name == "bad"), decision.reasons

    return ask


def models(root: str) -> None:
    """All models, and what they answered."""
    for name in OBEYED:
        candidate(root, name)


def before(*names: str) -> Callable[[str], None]:
    """All models, a registry, and the decisions on some of the models."""

    def start(root: str) -> None:
        models(root)
        if not EMPTY.exists():  # its tables take seconds to make
            connected(f"sqlite:///{EMPTY.resolve()}").search_experiments()
        shutil.copy(EMPTY, Registry().uri.removeprefix("sqlite:///"))
        for name in names:
            asked(name)(root)

    return start


def back(root: str) -> None:
    """Rollback."""
    rollback(Store(root))


def is_back(root: str) -> bool:
    """A rollback that has moved the champion's alias is over: the next one goes back further."""
    last, champion = read_decisions(root)[-1], Registry().find("champion")
    done = champion is not None and champion.fingerprint == last.candidate.fingerprint
    return last.action == "rolled_back" and done


def registered(root: str) -> dict[str, Any]:
    """Versions with their aliases, and runs with all that they say.

    Nobody is champion at any time whom no decision has promoted.
    """
    registry = Registry()
    champion = registry.find("champion")
    assert champion is None or champion.fingerprint in History.read(root).promoted(), champion
    if not exists(registry.uri):  # looking must not make it
        return {}
    client = connected(registry.uri)
    found = {e.name: e.experiment_id for e in client.search_experiments()}
    runs = client.search_runs([found["psavlm"]]) if "psavlm" in found else []
    told = {}
    for run in runs:
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        points = {m: len(client.get_metric_history(run.info.run_id, m)) for m in run.data.metrics}
        said = [run.info.status, dict(run.data.metrics), points, dict(run.data.params), files]
        told.setdefault(run.data.tags["psavlm_key"], []).append(said)
    versions = [(v.version, v.fingerprint, v.step, v.aliases) for v in registry.versions()]
    return {"versions": versions, "runs": told}


GATE: dict[str, Any] = {"state": registered, "also": ("registry",)}
SCENARIOS = {
    "registry": Scenario(asked("middling"), start=models, **GATE),
    "first": Scenario(asked("middling"), start=before(), **GATE),
    "promotion": Scenario(asked("good"), start=before("middling"), **GATE),
    "refusal": Scenario(asked("bad"), start=before("middling"), **GATE),
    "rollback": Scenario(back, start=before("middling", "good"), finished=is_back, **GATE),
}
