"""Checks of what a run talks to: its root, the ports, the servers of `psavlm up`."""

from pathlib import Path

from infra.address import checked_address
from infra.doctor.check import Check, broken, fine, note
from infra.faults import without_secrets
from infra.probe import probe
from infra.registry import Registry
from infra.registry.connect import is_local
from infra.servers.health import healthy
from infra.servers.ports import asked, check_free
from infra.servers.settings import settings
from infra.servers.specs import SPECS, Spec
from infra.servers.state import servers
from schemas.errors import ConfigError, StorageError


def root_folder(root: str) -> Check:
    """Whether artifacts can be written, and whether of two writers one loses."""
    try:
        address = checked_address(root)
        exclusive = probe(address)
    except (ConfigError, StorageError) as error:
        found, _, remedy = str(error).rpartition("; ")
        return broken("root", found or remedy, remedy if found else "give another --root")
    if not exclusive:
        return note("root", f"{address} ignores If-None-Match", "run one pipeline at a time on it")
    return fine("root", f"{address} can be written, conditional put holds")


def registry() -> Check:
    """Whether the model registry answers; the database of this folder needs no server."""
    place = Registry()
    if is_local(place.uri):
        return fine("registry", "a database of this machine")
    try:
        known = len(place.versions())
    except StorageError as error:
        found, _, remedy = str(error).rpartition("; ")
        return broken("registry", found, remedy)
    return fine("registry", f"{without_secrets(place.uri)} answers, {known} versions")


def ports(home: Path) -> Check:
    """Whether every port is free or has our own server."""
    living = {name for name, server in servers(home).items() if server.alive()}
    missing = [spec for spec in SPECS if spec.name not in living]
    try:
        given = settings(home)
        wanted = {spec.name: asked(spec, home, given) for spec in SPECS}
        check_free(missing, wanted)
    except ConfigError as error:
        found, _, remedy = str(error).partition(": ")
        return broken("ports", found, remedy)
    numbers = sorted(number for each in wanted.values() for number in each.values())
    return fine("ports", f"{', '.join(map(str, numbers))} free or ours")


def running(spec: Spec, home: Path) -> Check:
    """Whether a server of this folder is up and answers."""
    name = spec.title.lower()
    server = servers(home).get(spec.name)
    if server is None:
        return note(name, "not started", "for deployed runs: psavlm up")
    if not server.alive():
        return broken(name, f"died, its last words are in {server.log}", "run: psavlm up")
    if not healthy(server, home):
        return broken(name, f"pid {server.pid} does not answer", "run: psavlm down, then up")
    return fine(name, f"up at {server.page}" if server.page else f"online, pid {server.pid}")
