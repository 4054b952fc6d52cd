"""From decisions and artifacts to what the registry holds: runs, versions, aliases."""

from pathlib import Path
from typing import Any

from infra.registry import Registry, Run
from infra.store import Store, open_artifact
from schemas.artifact import Artifact, Manifest
from schemas.config import Stage
from schemas.decision import ModelRef, Version
from schemas.errors import StorageError
from tasks.evaluate.step import REPORT, read_report
from tasks.progress import say
from tasks.promote.history import History
from tasks.promote.inputs import PromoteInputs

# Of a report the pages, the numbers, and the plots that they show.
SHOWN = (".html", ".md", ".csv", ".json", ".png", ".svg")
CANDIDATE = "candidate"


def register(registry: Registry, inputs: PromoteInputs, *, store: Store) -> Version:
    """The candidate's version, with its evaluation's numbers and the report in its run."""
    run = _model_run(inputs.model, store)
    if inputs.preset:
        run.tags["preset"] = inputs.preset
    report = read_report(inputs.evaluation, store=store)
    for name, metric in report.metrics.items():
        run.metrics[name] = metric.value
        run.metrics.update({f"{name}_low": metric.low, f"{name}_high": metric.high})
    for name, metric in read_report(inputs.base_evaluation, store=store).metrics.items():
        run.metrics[f"base_{name}"] = metric.value
    run.tags["evaluation"] = inputs.evaluation.fingerprint
    run.texts[f"evaluation/{REPORT}"] = report.model_dump_json(indent=1)
    if inputs.report is not None:
        run.tags["report"] = inputs.report.fingerprint
        run.files.update(_pages(store.local(inputs.report)))
    version = _placed(registry, registry.register(inputs.model, run), inputs.model.uri)
    if CANDIDATE in version.aliases:
        return version
    return registry.point(CANDIDATE, version.version)


def follow(registry: Registry, history: History, *, store: Store) -> None:
    """Let the aliases say what the decisions say; a version that the registry lost is made anew."""
    pointed = registry.aliases()
    for alias, model in (("previous", history.previous), ("champion", history.champion)):
        if model is None:
            if alias in pointed:
                registry.unpoint(alias)
            continue
        version = registry.find(model.fingerprint) or _again(registry, model, store)
        if version is None:
            continue
        _placed(registry, version, f"{store.root}/{model.step}/{model.fingerprint}")
        if pointed.get(alias) != version.version:
            registry.point(alias, version.version)


def known(registry: Registry, model: ModelRef | Artifact) -> ModelRef:
    """A model with its version's number, where the registry has it."""
    version = registry.find(model.fingerprint)
    number = version.version if version else None
    return ModelRef(step=model.step, fingerprint=model.fingerprint, uri=model.uri, version=number)


def stranger(registry: Registry, history: History, store: Store) -> Version | None:
    """The registry's champion if it was made in another root and is there to be used."""
    version = registry.find("champion")
    if version is None or version.root == store.root:
        return None
    if version.fingerprint in history.promoted():  # the root has moved
        return None
    return version if _there(version.uri) else None


def _placed(registry: Registry, version: Version, uri: str) -> Version:
    """The version at the address where its artifact is, if it is no longer where it was."""
    gone = version.uri != uri and not _there(version.uri)
    return registry.move(version.version, uri) if gone else version


def _there(uri: str) -> bool:
    try:
        open_artifact(uri)
    except StorageError:
        return False
    return True


def _again(registry: Registry, model: ModelRef, store: Store) -> Version | None:
    artifact = store.find(model.step, model.fingerprint)
    if artifact is None:
        say(f"{model.step}/{model.fingerprint} is neither in the registry nor in {store.root}")
        return None
    return registry.register(artifact, _model_run(artifact, store))


def _model_run(model: Artifact, store: Store) -> Run:
    manifest = store.manifest(model)
    tags = {"fingerprint": model.fingerprint, "uri": model.uri, "step": model.step}
    if commit := manifest.provenance.get("commit"):
        tags["commit"] = commit
    return Run(
        key=model.fingerprint,
        name=f"{model.step} {model.fingerprint[:8]}",
        params={**dict(_flat(manifest.config)), **_ratios(model, store)},
        tags=tags,
        texts={"manifest.json": manifest.model_dump_json(indent=1)},
    )


def _flat(tree: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{above}{key}"
        leaves += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return leaves


def _pages(folder: Path) -> dict[str, Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix in SHOWN)
    return {f"report/{path.relative_to(folder).as_posix()}": path for path in files}


def _ratios(model: Artifact, store: Store) -> dict[str, float]:
    """Clean per unsafe asked of each stage's training order, as the flow's parameters call it."""
    manifest: Manifest | None = store.manifest(model)
    found = {}
    while manifest is not None:
        order = _parent(manifest, "balanced", store)
        if order is not None:
            before = f"{Stage.ALIGNMENT}_" if manifest.step == Stage.ALIGNMENT else ""
            found[f"{before}clean_per_unsafe"] = order.config["clean_per_unsafe"]
        manifest = _parent(manifest, "start", store)
    return found


def _parent(manifest: Manifest, role: str, store: Store) -> Manifest | None:
    """What an artifact was made from in that role; None if it has none, or it is gone."""
    if role not in manifest.parents:
        return None
    found = store.find(*manifest.parents[role].split("/"))
    return store.manifest(found) if found else None
