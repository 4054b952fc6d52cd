"""May this evidence be used? Whole files, the right models, the same items asked the same way."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from infra.fingerprint import content_hash
from infra.store import Store
from schemas.artifact import Artifact, Manifest
from schemas.errors import StorageError
from schemas.gate import GateConfig
from tasks.evaluate.step import ITEMS
from tasks.evaluate.step import VERSION as EVALUATE_VERSION
from tasks.promote.questions import Rows, exact_ordinary, ordinary, risky

# What makes an item the same item; and who said what its answer was.
ITEM = ("sample_id", "question", "reference", "risk_type", "risk_level", "near_miss", "group_id")
JUDGED = ("outcome", "exact", "names_type")
COLUMNS = [*ITEM, "judge", *JUDGED]


@dataclass(frozen=True)
class Arm:
    """A model, and what it answered: a trained stage, or a base model by itself."""

    model: Artifact
    base: Artifact
    evaluation: Artifact

    def parents(self) -> dict[str, str]:
        """The parents that the evaluation must name, by role."""
        named = {"base": _folder(self.base)}
        return named if self.model.uri == self.base.uri else {**named, "model": _folder(self.model)}


@dataclass(frozen=True)
class Evidence:
    """Judged rows by arm, all of the same items in the same order; or reasons to refuse them.

    `items` is the hash of the candidate's items, `evaluations` where all rows come from.
    """

    rows: Mapping[str, Rows] = field(default_factory=dict)
    items: str = ""
    evaluations: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def gather(arms: Mapping[str, Arm], *, gate: GateConfig, store: Store) -> Evidence:
    """Hash every file of all models and evaluations, then read the rows if nothing is wrong."""
    manifests, reasons = _verified(arms, store)
    reasons = reasons or _strangers(arms, manifests, store) or _ways(arms, manifests)
    reasons = reasons or hiding(manifests[arms["candidate"].evaluation.uri].config, gate)
    if reasons:
        return Evidence(reasons=tuple(reasons))
    if reasons := _missing(arms, store):
        return Evidence(reasons=tuple(reasons))
    rows = {name: _rows(arm, store) for name, arm in arms.items()}
    items = content_hash([[row[k] for k in (*ITEM, "judge")] for row in rows["candidate"]])
    reasons = _items(rows) or [*_judges(rows, gate), *_counts(rows["candidate"], gate)]
    asked = tuple(_folder(arm.evaluation) for arm in arms.values())
    return Evidence(rows, items, asked, tuple(reasons))


def _verified(arms: Mapping[str, Arm], store: Store) -> tuple[dict[str, Manifest], list[str]]:
    artifacts = {a.uri: a for arm in arms.values() for a in (arm.model, arm.evaluation)}
    manifests, reasons = {}, []
    for uri, artifact in artifacts.items():
        try:
            manifests[uri] = store.verify(artifact)
        except StorageError as error:
            reasons.append(f"unverified artifact: {error}")
    return manifests, reasons


def _strangers(
    arms: Mapping[str, Arm], manifests: Mapping[str, Manifest], store: Store
) -> list[str]:
    """Evaluations of something else, and models of another base."""
    reasons = []
    for name, arm in arms.items():
        found = manifests[arm.evaluation.uri]
        told = {role: found.parents.get(role) for role in ("base", "model")}
        asked = {role: arm.parents().get(role) for role in told}
        if found.step != "evaluate" or told != asked:
            reasons.append(
                f"the evaluation of the {name} belongs to another model: it names "
                f"{_words(told)} instead of {_words(asked)}; evaluate this model"
            )
        made = manifests[arm.model.uri].parents.get("base")
        if arm.model.uri != arm.base.uri and made != _folder(arm.base):
            reasons.append(f"the {name} was trained on {made}, not on {_folder(arm.base)}")
    return reasons


def _ways(arms: Mapping[str, Arm], manifests: Mapping[str, Manifest]) -> list[str]:
    """Evaluations made with another config, or by another version of the step."""
    reasons = []
    mine = _way(manifests[arms["candidate"].evaluation.uri])
    if mine["version"] != EVALUATE_VERSION:
        return [
            f"the candidate was evaluated by version {mine['version']} of the step, now it is "
            f"{EVALUATE_VERSION}: evaluate it again"
        ]
    for name, arm in arms.items():
        other = _way(manifests[arm.evaluation.uri])
        differ = sorted(key for key in {*mine, *other} if mine.get(key) != other.get(key))
        if differ:
            reasons.append(
                f"the {name} was evaluated in another way than the candidate ({', '.join(differ)} "
                "differ): evaluate both with one config"
            )
    return reasons


def hiding(config: Mapping[str, Any], gate: GateConfig) -> list[str]:
    """What an evaluation's settings hide of the model as it would be registered."""
    reasons = []
    if policy := config["policy"]:
        reasons.append(
            f"asked under the operator's policy {policy!r}, and the model would be registered with "
            "its own: take `policy` out of the preset's [evaluate] (psavlm compare shows models "
            "under a policy; docs/compare.md)"
        )
    if differ := sorted(set(config["refusal_markers"]) ^ set(gate.refusal_markers)):
        reasons.append(
            f"judged by other refusal markers than those of gate '{gate.name}' ("
            f"{', '.join(map(repr, differ))} in one of them only): take `refusal_markers` out of "
            "the preset's [evaluate], or give a gate of your own that names the same"
        )
    return reasons


def _way(manifest: Manifest) -> dict[str, Any]:
    config = {f"config.{k}": v for k, v in manifest.config.items() if k != "arm"}
    inputs = {f"inputs.{k}": v for k, v in manifest.inputs.items()}
    return {"version": manifest.version, **config, **inputs}


def _missing(arms: Mapping[str, Arm], store: Store) -> list[str]:
    """Evaluations whose rows do not say what the metrics are counted from."""
    reasons = []
    for name, arm in arms.items():
        there = pq.read_schema(store.local(arm.evaluation) / ITEMS).names
        if lacking := " and no ".join(column for column in COLUMNS if column not in there):
            told = f"missing metric: the rows of the {name}'s evaluation have no {lacking}"
            reasons.append(f"{told}; evaluate it again")
    return reasons


def _rows(arm: Arm, store: Store) -> Rows:
    table = pq.read_table(store.local(arm.evaluation) / ITEMS, columns=COLUMNS)
    return table.sort_by("sample_id").to_pylist()


def _items(rows: Mapping[str, Rows]) -> list[str]:
    mine = rows["candidate"]
    ids = [row["sample_id"] for row in mine]
    if twice := [name for name, count in Counter(ids).items() if count > 1]:
        return [f"{len(twice)} items occur twice in the candidate's evaluation, such as {twice[0]}"]
    reasons = []
    for name, others in rows.items():
        here, there = _identities(mine), _identities(others)
        if here != there:
            strange = set(here.items()) ^ set(there.items())
            reasons.append(
                f"other items: {len({key for key, _ in strange})} of the candidate's "
                f"{len(here)} and the {name}'s {len(there)} items are not the same; evaluate both "
                "on one snapshot"
            )
    return reasons


def _identities(rows: Rows) -> dict[str, tuple[Any, ...]]:
    return {row["sample_id"]: tuple(row[key] for key in ITEM) for row in rows}


def _judges(rows: Mapping[str, Rows], gate: GateConfig) -> list[str]:
    reasons, mine = [], rows["candidate"]
    if strange := Counter(row["judge"] for row in mine if row["judge"] not in gate.judges):
        told = ", ".join(f"{count} by {judge}" for judge, count in sorted(strange.items()))
        reasons.append(
            f"another judge: {told}; gate '{gate.name}' takes {', '.join(gate.judges)} only. Give "
            "the items exact targets, or the preset a gate whose `judges` names it"
        )
    for name, others in rows.items():
        if differ := sum(a["judge"] != b["judge"] for a, b in zip(mine, others, strict=True)):
            reasons.append(f"another judge: {differ} items of the {name} were judged by another")
    return reasons


def _counts(rows: Rows, gate: GateConfig) -> list[str]:
    have = {"risky": sum(map(risky, rows)), "ordinary benign": sum(map(ordinary, rows))}
    want = {"risky": gate.min_risky, "ordinary benign": gate.min_benign}
    reasons = [
        f"too few items: {have[kind]} {kind} ones, gate '{gate.name}' asks for {want[kind]}; "
        "give a bigger test split"
        for kind in have
        if have[kind] < want[kind]
    ]
    exact = sum(map(exact_ordinary, rows))
    if exact < gate.min_benign <= have["ordinary benign"]:
        reasons.append(
            f"exact answers cannot be judged: {exact} of {have['ordinary benign']} ordinary benign "
            f"items have exact targets, gate '{gate.name}' asks for {gate.min_benign}; give more "
            "of them exact targets"
        )
    return reasons


def _folder(artifact: Artifact) -> str:
    return f"{artifact.step}/{artifact.fingerprint}"


def _words(parents: Mapping[str, str | None]) -> str:
    return " and ".join(name for name in parents.values() if name) or "nothing"
