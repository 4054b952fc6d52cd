"""One way to a Ray cluster: join the address given, or start a local one; never a stray one.

HTTP pages listen on 127.0.0.1. Ray's internal ports listen on all interfaces and ask for a token.
"""

import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # With the default 2 s a worker killed right after report() resumes one checkpoint back.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_DEDUP_LOGS": "1",
}


@dataclass(frozen=True)
class Cluster:
    """A joined cluster: its dashboard's address (empty if none) and how many GPUs it has."""

    dashboard: str
    gpus: int


def join(address: str = "", *, cpus: int, state: Path = Path(".psavlm")) -> Cluster:
    """Join `address`, or start a cluster on this machine with at least `cpus` CPUs; once a process.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    _prepare(state)
    import ray

    if not ray.is_initialized():
        _start(address, cpus)
    url = ray.worker.get_dashboard_url()
    return Cluster(
        dashboard=f"http://{url}" if url else "",
        gpus=int(ray.cluster_resources().get("GPU", 0)),
    )


def leave() -> None:
    """Disconnect; a local cluster stops. A run that never trained has not even imported Ray."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def _prepare(state: Path) -> None:
    """Settings must be in the environment before Ray is imported."""
    for name, value in LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_token(state / "ray-token"))


def _token(path: Path) -> Path:
    """A token of our own, readable by the owner only, made once."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(32))
        draft.replace(path)
    return path


def _start(address: str, cpus: int) -> None:
    import ray

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if not address:
        # One machine: gloo must not guess an interface.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        ray.init(
            address="local",
            num_cpus=max(cpus, os.cpu_count() or 1),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            **quiet,
        )
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster at {address!r}: {error}. Give host:port of a running head, or leave "
            "`cluster` empty to start one here"
        ) from error
