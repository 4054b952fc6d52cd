"""One way to a Ray cluster: join the address given, or start a local one; never a stray one.

HTTP pages listen on 127.0.0.1. Ray's internal ports listen on all interfaces and ask for a token.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import ray_client, ray_jobs
from infra.cluster_address import takes_jobs
from infra.port import spare_port
from infra.provenance import provenance
from infra.ray_settings import OWN, prepare
from infra.ray_words import set_apart
from schemas.errors import ConfigError, TrainingError

REACH_S = 10.0
# Several points of a sweep train from threads of one process, and join it once.
_joining = threading.Lock()


@dataclass(frozen=True)
class Cluster:
    """A joined cluster: its dashboard's address (empty if none) and how many GPUs it has."""

    dashboard: str
    gpus: int


def join(address: str = "", *, cpus: int, state: Path = Path(".psavlm")) -> Cluster:
    """Join a cluster, or start one on this machine with at least `cpus` CPUs; once a process.

    Args:
        address: host:port of a head; empty is PSAVLM_CLUSTER, or a cluster of this process's own.
        cpus: how many CPUs a training will ask for.
        state: the folder of the token.

    Raises:
        ConfigError: no cluster answers at the address, or one that is too small.
        TrainingError: this machine is too busy to start one.
    """
    with _joining:
        prepare(state)
        import ray

        if not ray.is_initialized():
            set_apart()
            with _same_sigterm():
                _start(address or os.environ.get(OWN, ""), cpus)
        _check_size(cpus)
    url = ray.worker.get_dashboard_url()
    return Cluster(
        dashboard=f"http://{url}" if url else "",
        gpus=int(ray.cluster_resources().get("GPU", 0)),
    )


def room(address: str = "", *, workers: int) -> int:
    """How many trainings of `workers` workers fit side by side, at least 1.

    A cluster of this machine's own is not started for the answer: it will have this machine's
    CPUs and GPUs.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    if address or os.environ.get(OWN):
        have = ray_client.resources(address) if takes_jobs(address) else _joined(address, workers)
        cpus, gpus = int(have.get("CPU", 0)), int(have.get("GPU", 0))
    else:
        host = provenance()["host"]
        cpus, gpus = host["cpus"] or 1, len(host["gpus"])
    # As in training: GPUs if every worker gets one.
    return max(1, (gpus if gpus >= workers else cpus) // workers)


def _joined(address: str, workers: int) -> dict[str, float]:
    join(address, cpus=workers)
    import ray

    return dict(ray.cluster_resources())


def leave() -> None:
    """Disconnect; a local cluster stops, and so do jobs that other threads still wait for."""
    ray_jobs.end_all()
    ray = sys.modules.get("ray")  # a run that never trained has not even imported it
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def _start(address: str, cpus: int) -> None:
    import ray

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if not address:
        # One machine: gloo must not guess an interface.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        with _as_its_own_address(), _told_when_late():
            ray.init(
                address="local",
                num_cpus=max(cpus, os.cpu_count() or 1),
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                **quiet,
            )
        return
    _check_reachable(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError) as error:
        raise _nobody(address, f"{error}; is its token the one of RAY_AUTH_TOKEN_PATH?") from error


@contextlib.contextmanager
def _same_sigterm() -> Iterator[None]:
    """Let SIGTERM mean what it meant before, to a flow or to the command.

    Ray puts two of its own in its place: one leaves at once, one prints a stack and aborts.
    """
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _told_when_late() -> Iterator[None]:
    """One message where Ray gives a node up, after half a minute that no setting of it changes."""
    try:
        yield
    except Exception as error:
        # Ray has no class of its own for it.
        if type(error) is not Exception:
            raise
        raise TrainingError(
            f"Ray did not start on this machine ({error}). It may be too busy or short of memory "
            "(psavlm doctor); Ray's own words are in the newest folder of its temporary directory, "
            "logs/raylet.err. Run the same command again: what is done is kept"
        ) from error


@contextlib.contextmanager
def _as_its_own_address() -> Iterator[None]:
    """Let a cluster that starts now be the one that its own processes ask about actors.

    Without it they ask the last cluster that `ray start` made on this machine. It may be another
    one, or long dead: each training then waited 48 s for an answer.
    """
    port = spare_port()
    told = {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _check_size(cpus: int) -> None:
    """Also where an earlier step has joined, which asked for fewer."""
    import ray

    have = int(ray.cluster_resources().get("CPU", 0))
    if have < cpus:
        address = ray.get_runtime_context().gcs_address
        ray.shutdown()
        raise ConfigError(
            f"the Ray cluster at {address} has {have} CPUs and the training asks for {cpus} "
            "workers: lower `workers` in the preset, or give a larger cluster"
        )


def _check_reachable(address: str) -> None:
    """Ray itself would try for two minutes, and may end the whole process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise _nobody(address, "that is not host:port")
    try:
        with socket.create_connection((host, int(port)), timeout=REACH_S):
            pass
    except OSError as error:
        raise _nobody(address, error.strerror or str(error)) from None


def _nobody(address: str, why: str) -> ConfigError:
    own = address == os.environ.get(OWN)
    do = "start it with `psavlm up`" if own else "give host:port of a running head, or leave it out"
    return ConfigError(f"no Ray cluster at {address}: {why}; {do}")
