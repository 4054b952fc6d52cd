"""What the Prefect server must know: the work pool, the deployments, what to do with dead runs."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from infra.servers.ask import ask
from infra.servers.specs import POOL
from infra.servers.state import FOLDER
from schemas.errors import ConfigError, ServerError

PLAN = "prefect.yaml"
# What the parameters' schemas are made of: a change there must reach the server.
SOURCES = ("flows/*.py", "schemas/**/*.py", "schemas/**/*.toml")
ENDINGS = ("Completed", "Failed", "Cancelled", "Crashed")
BEAT = "prefect.flow-run.heartbeat"
# Three heartbeats of `flows.heartbeat_frequency`, which cannot be below 30 s.
SILENCE_S = 90
ZOMBIES = {
    "name": "psavlm: crash silent runs",
    "description": "A run that is not heard of for 90 s is Crashed: it frees its place in line.",
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "after": [BEAT],
        "expect": [BEAT, *(f"prefect.flow-run.{ending}" for ending in ENDINGS)],
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": SILENCE_S,
    },
    "actions": [
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "message": "no sign of life for 90 s; run it again, it goes on where it was",
        }
    ],
}


def ensure_pool(api: str) -> None:
    """Create the work pool if there is none, as a worker of its type would."""
    try:
        ask(f"{api}/work_pools/{POOL}")
    except HTTPError as error:
        if error.code != 404:
            raise
        kinds = ask(f"{api}/collections/views/aggregate-worker-metadata")["prefect"]
        template = kinds["process"]["default_base_job_configuration"]
        pool = {"name": POOL, "type": "process", "base_job_template": template}
        ask(f"{api}/work_pools/", pool)


def ensure_automation(api: str) -> None:
    """Create the automation that crashes runs whose heartbeats stop, or put it right.

    One that somebody has switched off stays off.
    """
    by_name = {"automations": {"name": {"any_": [ZOMBIES["name"]]}}}
    found = ask(f"{api}/automations/filter", by_name)
    if not found:
        ask(f"{api}/automations/", ZOMBIES)
    for automation in found:
        if not _has(automation, ZOMBIES):
            changed = {**ZOMBIES, "enabled": automation["enabled"]}
            ask(f"{api}/automations/{automation['id']}", changed, method="PUT")


def stale(root: Path, api: str) -> bool:
    """Whether the deployments are not those of the project's files, or not all there."""
    note = root / FOLDER / "deployed"
    return not note.exists() or note.read_text(encoding="utf-8") != _note(root, api)


def deploy(root: Path, api: str, environment: Mapping[str, str]) -> None:
    """`prefect deploy --all`; a schedule that somebody has switched on stays on.

    Raises:
        ServerError: Prefect refuses the deployments.
    """
    on = _active(api)
    # Without PSAVLM_HOME its placeholder stays in the deployment: each worker fills in its own.
    quiet = {name: value for name, value in environment.items() if name != "PSAVLM_HOME"}
    log = root / FOLDER / "deploy.log"
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=root,
            env=quiet,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise ServerError(f"prefect deploy --all failed with {done.returncode}: see {log}")
    for deployment in _deployments(api):
        for schedule in deployment["schedules"]:
            if not schedule["active"] and (deployment["name"], schedule["slug"]) in on:
                path = f"{api}/deployments/{deployment['id']}/schedules/{schedule['id']}"
                ask(path, {"active": True}, method="PATCH")
    draft = root / FOLDER / f"deployed.{os.getpid()}"
    draft.write_text(_note(root, api), encoding="utf-8")
    draft.replace(root / FOLDER / "deployed")


def checked_plan(root: Path) -> Path:
    """The project's folder; ConfigError if it holds no prefect.yaml."""
    if not (root / PLAN).is_file():
        raise ConfigError(f"no {PLAN} in {root}: run this in the project's folder")
    return root


def _active(api: str) -> set[tuple[str, str]]:
    return {
        (deployment["name"], schedule["slug"])
        for deployment in _deployments(api)
        for schedule in deployment["schedules"]
        if schedule["active"]
    }


def _deployments(api: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(
        f"{api}/deployments/filter", {"work_pools": {"name": {"any_": [POOL]}}}
    )
    return found


def _has(found: Any, wanted: Any) -> bool:
    """Whether an answer says all that was asked for; lists in any order."""
    if isinstance(wanted, dict):
        return all(key in found and _has(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(
            any(_has(one, other) for one in found) for other in wanted
        )
    return bool(found == wanted)


def _note(root: Path, api: str) -> str:
    """What was deployed from which files; one that is deleted by hand is missed here."""
    names = sorted(deployment["name"] for deployment in _deployments(api))
    return " ".join([_digest(root), *names])


def _digest(root: Path) -> str:
    files = sorted(path for pattern in SOURCES for path in root.glob(pattern))
    digest = hashlib.sha256()
    for path in (root / PLAN, *files):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
