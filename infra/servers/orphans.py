"""Runs that nobody looks after: their process is gone, or the worker that would cancel them.

Such a run would hold its deployment's only place for ever. Its process is known by
`infrastructure_pid`: the worker writes it, and so do the flows themselves when they begin (a run
of `psavlm run` has no worker).
"""

import contextlib
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from infra.servers.ask import ask
from infra.servers.run import HOME, PATIENCE_S, descent, end

FLOWS = ("psavlm", "psavlm-sweep", "psavlm-ablation", "psavlm-compare")
OPEN = ("PENDING", "RUNNING", "CANCELLING")
# Between its state and its process's number a run is nobody's for a moment.
YOUNG_S = 60.0
RUN_ID = "PREFECT__FLOW_RUN_ID"
CRASHED = {
    "type": "CRASHED",
    "name": "Crashed",
    "message": "its process is gone; run it again, it goes on where it was",
}
CANCELLED = {"type": "CANCELLED", "name": "Cancelled", "message": "cancelled without its worker"}


def end_orphans(api: str, *, worker: int | None) -> dict[str, str]:
    """Crash every run of ours whose process is dead, and finish what a lost worker cannot cancel.

    Args:
        api: Prefect's API.
        worker: the living worker's pid: a young run without a process may yet get one from it, and
            it cancels its own runs. Others that are to be cancelled are ended here.

    Returns:
        The runs' names, each with its new state's.
    """
    asked = {
        "flows": {"name": {"any_": list(FLOWS)}},
        "flow_runs": {"state": {"type": {"any_": list(OPEN)}}},
    }
    ended = {}
    for run in ask(f"{api}/flow_runs/filter", asked):
        cancelling = run["state"]["type"] == "CANCELLING"
        if cancelling:
            _end_process(run, worker)
        if not _lives(run, worker=worker is not None):
            state = CANCELLED if cancelling else CRASHED
            ask(f"{api}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
            _end_tasks(api, run["id"], state)
            ended[run["name"]] = state["name"]
    return ended


def flow_processes(root: Path) -> list[psutil.Process]:
    """The processes of flow runs that a worker of this project has started."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:  # gone, or another user's
            continue
        if RUN_ID in environment and environment.get(HOME) == str(root):
            found.append(process)
    return found


def _lives(run: dict[str, Any], *, worker: bool) -> bool:
    pid = run["infrastructure_pid"]
    if not pid:
        old = time.time() - _seconds(run["state"]["timestamp"]) > YOUNG_S
        return not old and (worker or run["deployment_id"] is None)
    if _is_elsewhere(pid):
        return True
    try:
        process = _process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(RUN_ID) == run["id"]:
            return True
        # A flow that is called in a process of its own: older than its run, or a used number.
        return bool(run["start_time"]) and process.create_time() <= _seconds(run["start_time"])
    except (ValueError, psutil.NoSuchProcess):
        return False
    except psutil.AccessDenied:  # another user's, who may have called the flow
        return True


def _end_process(run: dict[str, Any], worker: int | None) -> None:
    """End the process that a worker has started for a run, unless that worker lives."""
    pid = run["infrastructure_pid"] or ""
    if _is_elsewhere(pid):
        return
    with contextlib.suppress(ValueError, psutil.Error):
        process = _process(pid)
        own = process.environ().get(RUN_ID) == run["id"]
        if own and worker not in [parent.pid for parent in process.parents()]:
            end(descent(process), patience=PATIENCE_S)


def _is_elsewhere(pid: str) -> bool:
    """Whether `infrastructure_pid`, a number or host:number, is of another machine."""
    return pid.rpartition(":")[0] not in ("", socket.gethostname())


def _process(pid: str) -> psutil.Process:
    return psutil.Process(int(pid.rpartition(":")[2]))


def _end_tasks(api: str, run: str, state: dict[str, str]) -> None:
    asked = {
        "flow_runs": {"id": {"any_": [run]}},
        "task_runs": {"state": {"type": {"any_": list(OPEN)}}},
    }
    for task in ask(f"{api}/task_runs/filter", asked):
        ask(f"{api}/task_runs/{task['id']}/set_state", {"state": state, "force": True})


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()
