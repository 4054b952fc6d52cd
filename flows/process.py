"""A flow run's process, told to Prefect: `psavlm up` crashes runs whose process is gone."""

import os
from typing import Any

from prefect import get_client


def note_process(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook for the state Running: a worker does this for its runs, `psavlm run` has none."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, infrastructure_pid=str(os.getpid()))
