"""The artifact store, which is also the only cache: an artifact's address is what it is made of.

    {root}/{step}/{fingerprint}/attempts/<owner>/...   files of one build
    {root}/{step}/{fingerprint}/manifest.json          committed last; names the attempt that counts
    {root}/{step}/{fingerprint}/lease.json             while somebody builds
    {root}/runs/{step}-{fingerprint}/                  checkpoints until the artifact is there

A crash leaves at most an attempt that no manifest names, which nobody reads.
"""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractFileSystem
from pydantic import BaseModel

from infra import cache
from infra.address import checked_address, split_uri
from infra.attempt import Build, drop, make, plan
from infra.files import Files
from infra.fingerprint import checked_fingerprint, checked_step, fingerprint
from infra.integrity import (
    DamagedError,
    attempt,
    compare,
    condemn,
    condemned,
    hashed,
    present,
    sound,
)
from infra.lease import leased
from infra.probe import careful, probe
from schemas.artifact import Artifact, Manifest
from schemas.errors import StorageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """A root: a folder, or `s3://bucket/prefix` reached through the usual AWS settings."""

    root: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", checked_address(self.root))

    fingerprint = staticmethod(fingerprint)

    def check(self) -> str:
        """Find out within seconds whether the root can be used; StorageError if not.

        Returns:
            What a user of it must know; "" where all is fine.
        """
        return "" if probe(self.root) else careful(self.root)

    def artifact(
        self,
        step: str,
        version: int,
        *,
        config: Mapping[str, Any] | BaseModel,
        parents: Mapping[str, Artifact] | None = None,
        inputs: Mapping[str, str] | None = None,
        build: Build,
    ) -> Artifact:
        """Return the artifact of these ingredients; build it only if there is no sound one.

        Args:
            step: the folder of the artifact, and part of its fingerprint.
            version: raised when the step's code gives other bytes.
            config: all settings that the bytes depend on.
            parents: earlier artifacts by role.
            inputs: everything else by name, as a content hash or an identity.
            build: fills an empty local folder and returns counts. What it raises goes through,
                and nothing of the attempt stays.

        Raises:
            ConfigError: the config cannot be fingerprinted.
            StorageError: the root cannot be read or written.
        """
        draft = plan(step, version, config=config, parents=parents, inputs=inputs)
        files, folder = Files.at(self.root), f"{step}/{draft['fingerprint']}"
        with contextlib.suppress(DamagedError):  # looked at again, and told, under the lease
            if found := sound(files, folder):
                return self._address(found, reused=True)
        with leased(files, folder) as (lease, dead):
            try:
                if found := sound(files, folder):
                    return self._address(found, reused=True)
            except DamagedError as error:
                condemn(files, folder, why=error)
            for owner in dead:
                drop(files, folder, owner=owner)
            made, won = make(files, {**draft, "attempt": lease.owner}, build=build)
            return self._address(made, reused=not won)

    def find(self, step: str, fingerprint: str) -> Artifact | None:
        """Return the artifact at an address; None if there is none, or a damaged one (logged)."""
        folder = f"{checked_step(step)}/{checked_fingerprint(fingerprint)}"
        try:
            found = sound(Files.at(self.root), folder)
        except DamagedError as error:
            log.warning("damaged: %s", error)
            return None
        return self._address(found, reused=True) if found else None

    def manifest(self, artifact: Artifact) -> Manifest:
        """Return an artifact's manifest; StorageError if there is none or it is damaged."""
        files, folder = _home(artifact.uri)
        return present(files, folder)

    def verify(self, artifact: Artifact) -> Manifest:
        """Hash every file where it is stored; StorageError names the first damaged one.

        A damaged artifact loses its manifest, so that the next run rebuilds it.
        """
        files, folder = _home(artifact.uri)
        with condemned(files, folder):
            manifest = present(files, folder)
            compare(files, attempt(manifest), manifest, deep=True)
        return manifest

    def local(self, artifact: Artifact) -> Path:
        """Return a local folder with the artifact's files, hashed once per process.

        Files of a local root are used in place, remote ones are fetched once into the cache.

        Raises:
            StorageError: there is no such artifact, or it is damaged (see `verify`).
        """
        files, folder = _home(artifact.uri)
        with condemned(files, folder):
            manifest = present(files, folder)
            path = attempt(manifest)
            if not files.local:
                return cache.fetch(files, manifest)
            compare(files, path, manifest, deep=not hashed(files, path))
        return files.folder(path)

    def run_folder(self, step: str, fingerprint: str) -> str:
        """Return the address for a training run's checkpoints."""
        return f"{self.root}/{_run(step, fingerprint)}"

    def drop_run(self, step: str, fingerprint: str) -> None:
        """Remove a training run's checkpoints; none is fine."""
        Files.at(self.root).remove_tree(_run(step, fingerprint))

    def filesystem(self) -> tuple[AbstractFileSystem, str]:
        """Return the fsspec filesystem and the root as a path on it."""
        files = Files.at(self.root)
        return files.fs, files.root

    def _address(self, manifest: Manifest, *, reused: bool) -> Artifact:
        return Artifact(
            uri=f"{self.root}/{manifest.step}/{manifest.fingerprint}",
            step=manifest.step,
            fingerprint=manifest.fingerprint,
            reused=reused,
            counts=manifest.counts,
        )


def open_artifact(uri: str) -> Artifact:
    """Return the artifact at a full address, `{root}/{step}/{fingerprint}`.

    Raises:
        ConfigError: this is no such address.
        StorageError: there is no sound artifact.
    """
    files, folder = _home(uri)
    try:
        found = sound(files, folder)
    except DamagedError as error:
        raise StorageError(
            f"no sound artifact at {uri}: {error}; run its step again to rebuild it"
        ) from None
    if found is None:
        raise StorageError(f"no sound artifact at {uri}; check the address, or run its step again")
    return Store(files.address)._address(found, reused=True)


def _home(uri: str) -> tuple[Files, str]:
    """Open an artifact's own root, which may not be this store's."""
    root, folder = split_uri(uri)
    return Files.at(root), folder


def _run(step: str, fingerprint: str) -> str:
    return f"runs/{checked_step(step)}-{checked_fingerprint(fingerprint)}"
