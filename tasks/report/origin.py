"""Where the numbers come from: code, lock, machine, settings and addresses, without paths."""

from pathlib import PurePath
from typing import Any

from infra.store import Store
from schemas.artifact import Manifest
from tasks.report.inputs import ReportInputs


def origin(inputs: ReportInputs, store: Store) -> dict[str, Any]:
    """steps in order (address, config, inputs, counts, seconds), and what they share."""
    manifests = {role: store.manifest(part) for role, part in inputs.parents().items()}
    steps = [_step(role, manifest) for role, manifest in manifests.items()]
    known = [m.provenance for m in manifests.values() if m.provenance]
    libraries: dict[str, list[str]] = {}
    for manifest in manifests.values():
        for name in ("torch", "transformers", "peft"):
            if value := manifest.inputs.get(name):
                libraries.setdefault(name, [])
                libraries[name] += [value] * (value not in libraries[name])
    seeds = {role: m.config["seed"] for role, m in manifests.items() if "seed" in m.config}
    return {
        "steps": steps,
        "code": _distinct(known, "commit", "dirty"),
        "versions": _distinct(known, "psavlm", "python", "lock"),
        "hosts": _distinct([record.get("host", {}) for record in known]),
        "libraries": libraries,
        "seeds": seeds,
    }


def _step(role: str, manifest: Manifest) -> dict[str, Any]:
    return {
        "role": role,
        "address": f"{manifest.step}/{manifest.fingerprint}",
        "version": manifest.version,
        "commit": manifest.provenance.get("commit"),
        "dirty": manifest.provenance.get("dirty"),
        "seconds": manifest.provenance.get("seconds"),
        "config": portable(manifest.config),
        "inputs": portable(manifest.inputs),
        "counts": manifest.counts,
    }


def _distinct(records: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """The different records among these, in order, of some keys or of all."""
    found: list[dict[str, Any]] = []
    for record in records:
        kept = {key: record[key] for key in keys or record if key in record}
        if kept and kept not in found:
            found.append(kept)
    return found


def portable(value: Any) -> Any:
    """The same settings with absolute paths and addresses cut to their last part.

    A page goes elsewhere, where neither a folder of this machine nor a judge's host is of use.
    """
    if isinstance(value, dict):
        return {portable(key): portable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [portable(part) for part in value]
    if isinstance(value, str) and (
        value.startswith(("/", "~", "file:", "http:", "https:")) or value[1:3] == ":\\"
    ):
        return f"…/{PurePath(value).name}"
    return value
