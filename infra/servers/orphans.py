"""Runs that Prefect believes to be running although their process is gone.

Such a run would hold its deployment's only place for ever. Its process is known by
`infrastructure_pid`: the worker writes it, and so do the flows themselves when they begin (a run
of `psavlm run` has no worker).
"""

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from infra.servers.ask import ask

FLOWS = ("psavlm", "psavlm-sweep")
OPEN = ("PENDING", "RUNNING", "CANCELLING")
# Between its state and its process's number a run is nobody's for a moment.
YOUNG_S = 60.0
RUN_ID = "PREFECT__FLOW_RUN_ID"
CRASHED = {
    "type": "CRASHED",
    "name": "Crashed",
    "message": "its process is gone; run it again, it goes on where it was",
}


def crash_orphans(api: str, *, worker: bool) -> list[str]:
    """Crash every run of ours whose process is dead; returns their names.

    Args:
        api: Prefect's API.
        worker: whether a worker lives: a young run without a process may yet get one.
    """
    asked = {
        "flows": {"name": {"any_": list(FLOWS)}},
        "flow_runs": {"state": {"type": {"any_": list(OPEN)}}},
    }
    orphans = [
        run for run in ask(f"{api}/flow_runs/filter", asked) if not _lives(run, worker=worker)
    ]
    for run in orphans:
        ask(f"{api}/flow_runs/{run['id']}/set_state", {"state": CRASHED, "force": True})
        _crash_tasks(api, run["id"])
    return [run["name"] for run in orphans]


def flow_processes(root: Path) -> list[psutil.Process]:
    """The processes of flow runs that a worker of this project has started."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:  # gone, or another user's
            continue
        if RUN_ID in environment and environment.get("PSAVLM_HOME") == str(root):
            found.append(process)
    return found


def _lives(run: dict[str, Any], *, worker: bool) -> bool:
    pid = run["infrastructure_pid"]
    if not pid:
        old = time.time() - _seconds(run["state"]["timestamp"]) > YOUNG_S
        return not old and (worker or run["deployment_id"] is None)
    try:
        process = psutil.Process(int(pid.rpartition(":")[2]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(RUN_ID) == run["id"]:
            return True
        # A flow that is called in a process of its own: older than its run, or a used number.
        return bool(run["start_time"]) and process.create_time() <= _seconds(run["start_time"])
    except (ValueError, psutil.NoSuchProcess):
        return False
    except psutil.AccessDenied:  # another user's: not one of ours
        return False


def _crash_tasks(api: str, run: str) -> None:
    asked = {
        "flow_runs": {"id": {"any_": [run]}},
        "task_runs": {"state": {"type": {"any_": list(OPEN)}}},
    }
    for task in ask(f"{api}/task_runs/filter", asked):
        ask(f"{api}/task_runs/{task['id']}/set_state", {"state": CRASHED, "force": True})


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()
