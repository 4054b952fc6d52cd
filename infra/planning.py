"""A store that only looks: where each step's artifact would lie, and what earlier ones took."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from infra import disk
from infra.address import split_uri
from infra.attempt import Build, plan
from infra.faults import reason, troubles
from infra.files import Files
from infra.integrity import DamagedError, read_manifest
from infra.store import Store
from schemas.artifact import Artifact, Manifest
from schemas.errors import ConfigError, StorageError


@dataclass(frozen=True)
class PlanningStore(Store):
    """A store that answers every step with the address it would have; nothing is written.

    `drafts` holds, by address, what was asked for: a manifest's fields known before the work.
    """

    drafts: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)

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
        """The sound artifact of these ingredients, or without counts the one to be built."""
        draft = plan(step, version, config=config, parents=parents, inputs=inputs)
        folder = f"{step}/{draft['fingerprint']}"
        again = folder in self.drafts
        self.drafts[folder] = draft
        found = self.find(step, draft["fingerprint"])
        return found or Artifact(
            uri=f"{self.root}/{folder}", step=step, fingerprint=draft["fingerprint"], reused=again
        )

    def drop_run(self, step: str, fingerprint: str) -> None:
        """Leave a training run's checkpoints where they are."""

    def manifest_at(self, folder: str) -> Manifest | None:
        """The manifest at `{step}/{fingerprint}`; None if there is none, or a damaged one."""
        with contextlib.suppress(DamagedError):
            return read_manifest(Files.at(self.root), folder)
        return None

    def finished(self, step: str) -> list[Manifest]:
        """The manifests of all artifacts of a step, newest first.

        Raises:
            StorageError: the root cannot be listed.
        """
        fs, root = self.filesystem()
        local = "://" not in self.root
        try:
            paths = fs.glob(f"{root}/{step}/*/manifest.json")
        except troubles(local=local) as error:
            why = reason(error, local=local)
            raise StorageError(f"cannot list {step} in the store {self.root}: {why}") from None
        folders = []
        for path in paths:
            with contextlib.suppress(ConfigError):  # somebody else's folder
                folders.append(split_uri(f"/{path}".removesuffix("/manifest.json"))[1])
        found = [made for folder in folders if (made := self.manifest_at(folder))]
        return sorted(found, key=lambda made: made.created, reverse=True)

    def free_bytes(self) -> int | None:
        """Bytes free on the disk of a local root, which need not exist yet; None for a bucket."""
        return None if "://" in self.root else disk.free_bytes(Path(self.root))
