"""A client of a cluster's jobs API that gives up in time, and whose errors say what to do."""

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.ray_settings import prepare_to_ask
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

# For one answer, and for a connection that comes back.
ANSWER_S, TOO_FAR_S = 30.0, 300.0
SERVER_FAULT = 500
# Ray lets these override the address that it is given.
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_TALKERS = ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")
_STATUS = re.compile(r"status code (\d{3})")
# The environment belongs to all threads.
_naming = threading.Lock()


def connect(address: str, *, state: Path = Path(".psavlm")) -> "JobSubmissionClient":
    """A client of the jobs API at an address.

    Raises:
        ConfigError: nobody answers as Ray does, the token is refused, or it is another Ray.
    """
    prepare_to_ask(address, state)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for talker in _TALKERS:
        logging.getLogger(talker).setLevel(logging.WARNING)

    class Patient(JobSubmissionClient):
        """Ray's own waits for ever where a connection dies without a word."""

        def _do_request(self, *words: Any, **more: Any) -> Any:
            return super()._do_request(*words, timeout=ANSWER_S, **more)

    try:
        with named_alone():
            client = Patient(address)
    except AuthenticationError:
        raise ConfigError(
            f"the cluster at {address} wants its own token: give it by RAY_AUTH_TOKEN_PATH (a "
            "file) or RAY_AUTH_TOKEN"
        ) from None
    except (*troubles(), KeyError) as error:
        raise ConfigError(
            f"no Ray jobs API answers at {address} ({type(error).__name__}): give the address of "
            "the dashboard of a running head, such as http://host:8265, or leave the cluster out"
        ) from error
    _check_version(address, str(client._server_ray_version))
    return client


def _check_version(address: str, there: str) -> None:
    here = version("ray")
    if there.split(".")[:2] != here.split(".")[:2]:
        raise ConfigError(
            f"the cluster at {address} runs Ray {there}, and this project Ray {here}: install "
            "the same release on both (constraints.txt)"
        )


@contextlib.contextmanager
def named_alone() -> Iterator[None]:
    """Let an address that is given count, whatever the environment names."""
    with _naming:
        before = {name: os.environ.pop(name, None) for name in _OVERRIDES}
        try:
            yield
        finally:
            for name, value in before.items():
                if value is not None:
                    os.environ[name] = value


def resources(address: str) -> dict[str, float]:
    """What all living nodes have together, such as {"CPU": 8.0}; ConfigError if nobody answers."""
    connect(address)
    from ray.util.state import list_nodes

    total: dict[str, float] = {}
    with named_alone():
        nodes = list_nodes(address=address, filters=[("state", "=", "ALIVE")])
    for node in nodes:
        for name in ("CPU", "GPU"):
            total[name] = total.get(name, 0.0) + float(node.resources_total.get(name, 0.0))
    return total


def troubles() -> tuple[type[Exception], ...]:
    """What Ray's client raises where a question has no good answer."""
    from ray.exceptions import AuthenticationError
    from requests import RequestException

    return (RequestException, ConnectionError, RuntimeError, AuthenticationError)


def passing(error: Exception) -> bool:
    """Whether the same question may be answered the next time: all but a refusal."""
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        return False
    status = _STATUS.search(str(error)) if isinstance(error, RuntimeError) else None
    return status is None or int(status[1]) >= SERVER_FAULT
