"""Which ports a server will have, and whether they are free."""

import errno
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from infra.port import spare_port
from infra.servers.settings import PREFECT_URL, port_of
from infra.servers.specs import Port, Spec
from infra.servers.state import Server
from schemas.errors import ConfigError


def asked(spec: Spec, root: Path, given: Mapping[str, str]) -> dict[str, int]:
    """The ports that the settings give a server, by name."""
    return {
        name: port_of(port.setting, port.default, root=root, given=given)
        for name, port in spec.ports.items()
    }


def check_free(specs: Iterable[Spec], ports: Mapping[str, Mapping[str, int]]) -> None:
    """ConfigError for the first port that another program has, or that two servers would share."""
    seen: dict[int, str] = {}
    for spec in specs:
        for name, port in spec.ports.items():
            number = ports[spec.name][name]
            if number in seen:
                raise _taken(spec, port, number, by=f"the {seen[number]}")
            if not is_free(number):
                raise _taken(spec, port, number, by="another program")
            seen[number] = spec.title


def check_same(
    spec: Spec, server: Server, wanted: Mapping[str, int], given: Mapping[str, str]
) -> None:
    """ConfigError if a living server listens elsewhere than its setting now says.

    Prefect's clients read the setting, all others ask the record: those may stay where they are
    when nothing is said.
    """
    for name, port in spec.ports.items():
        told = port.setting == PREFECT_URL or port.setting in given
        if told and server.ports[name] != wanted[name]:
            raise ConfigError(
                f"the {spec.title} is up on port {server.ports[name]}, but {port.setting} means "
                f"{wanted[name]}: stop it first (psavlm down), or give the setting it was started "
                "with, best in .env"
            )


def is_free(port: int) -> bool:
    """Whether a server could listen on a port, on any interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ConfigError(f"port {port} cannot be used: {error.strerror}") from None
    return True


def _taken(spec: Spec, port: Port, number: int, *, by: str) -> ConfigError:
    free = next((n for n in range(number + 1, number + 100) if is_free(n)), spare_port())
    return ConfigError(
        f"port {number} of the {spec.title} is taken by {by}: free it, or set "
        f"{port.setting}={port.form.format(port=free)} (environment or .env)"
    )
