"""Versions of the one registered model and the aliases that point to them."""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.registry import runs
from infra.registry.connect import (
    artifact_location,
    connected,
    exists,
    is_local,
    or_another_made_it,
    told,
    tracking_uri,
)
from schemas.artifact import Artifact
from schemas.decision import Version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL = "psavlm"
ALIASES = ("candidate", "champion", "previous")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registry:
    """The registry at an MLflow tracking address; see `connect.tracking_uri` for the default.

    Every method raises OutageError where MLflow cannot be reached, StorageError where it cannot be
    used.
    """

    uri: str = field(default_factory=tracking_uri)

    def check(self, root: str) -> None:
        """Warn where the store is shared and the registry is not."""
        if root.startswith("s3://") and is_local(self.uri):
            log.warning(
                "the store %s is remote and the registry is a database of this machine: others "
                "will not see its versions; set MLFLOW_TRACKING_URI to a server",
                root,
            )

    def log_run(self, run: runs.Run, *, parent: str = "") -> str:
        """Log a run once per key, under a parent run's id if given; returns its id."""
        with told(self.uri):
            return runs.log_run(self._client, run, experiment=self._experiment(), parent=parent)

    def register(self, artifact: Artifact, run: runs.Run) -> Version:
        """The model's version, made if there is none; its run is logged first.

        Args:
            artifact: a trained stage.
            run: keyed by the artifact's fingerprint; its files are what the version points to,
                since a server refuses paths of this machine.
        """
        run_id = self.log_run(run)
        if known := self.find(artifact.fingerprint):
            return known
        with told(self.uri):
            self._ensure_model()
            made = self._client.create_model_version(
                MODEL,
                source=str(self._client.get_run(run_id).info.artifact_uri),
                run_id=run_id,
                tags={
                    "fingerprint": artifact.fingerprint,
                    "step": artifact.step,
                    **_place(artifact.uri),
                },
            )
            first = next(v for v in self.versions() if v.fingerprint == artifact.fingerprint)
            if first.version != int(made.version):  # a process of another root was quicker
                self._client.delete_model_version(MODEL, made.version)
        return first

    def versions(self) -> list[Version]:
        """All versions in order, with their aliases."""
        if not exists(self.uri):
            return []
        pointed: dict[int, list[str]] = {}
        for alias, version in self.aliases().items():
            pointed.setdefault(version, []).append(alias)
        with told(self.uri):
            found = self._client.search_model_versions(f"name = '{MODEL}'")
        made = [_version(one, pointed.get(int(one.version), [])) for one in found]
        return sorted(made, key=lambda version: version.version)

    def aliases(self) -> dict[str, int]:
        """Alias -> version's number."""
        if not exists(self.uri):
            return {}
        with told(self.uri):
            models = self._client.search_registered_models(f"name = '{MODEL}'")
        found = {alias: number for model in models for alias, number in model.aliases.items()}
        # Numbers from a database, texts over HTTP.
        return {alias: int(number) for alias, number in found.items() if alias in ALIASES}

    def find(self, name: str) -> Version | None:
        """A version by alias, number or fingerprint; None if there is none."""
        return next(
            (v for v in self.versions() if name in (str(v.version), v.fingerprint, *v.aliases)),
            None,
        )

    def page(self, run: str) -> str:
        """Where a run's files are, relative to the address of an MLflow page."""
        with told(self.uri):
            return f"/#/experiments/{self._experiment()}/runs/{run}/artifacts"

    def point(self, alias: str, version: int) -> Version:
        """Let an alias point to a version, and to no other one; returns the version."""
        with told(self.uri):
            self._client.set_registered_model_alias(MODEL, alias, str(version))
        return self._numbered(version)

    def move(self, version: int, uri: str) -> Version:
        """Say where a version's artifact lies now; returns the version."""
        with told(self.uri):
            for key, value in _place(uri).items():
                self._client.set_model_version_tag(MODEL, str(version), key, value)
        return self._numbered(version)

    def unpoint(self, alias: str) -> None:
        """Take an alias away."""
        with told(self.uri):
            self._client.delete_registered_model_alias(MODEL, alias)

    def _numbered(self, number: int) -> Version:
        return next(version for version in self.versions() if version.version == number)

    @property
    def _client(self) -> "MlflowClient":
        return connected(self.uri)

    def _experiment(self) -> str:
        return runs.experiment_id(self._client, artifact_location(self.uri))

    def _ensure_model(self) -> None:
        if not self._client.search_registered_models(f"name = '{MODEL}'"):
            with or_another_made_it():
                self._client.create_registered_model(MODEL)


def _place(uri: str) -> dict[str, str]:
    return {"uri": uri, "root": uri.rsplit("/", 2)[0]}


def _version(found: "ModelVersion", aliases: list[str]) -> Version:
    tags = found.tags
    made = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Version(
        version=int(found.version),
        fingerprint=tags.get("fingerprint", ""),
        uri=tags.get("uri", ""),
        step=tags.get("step", ""),
        root=tags.get("root", ""),
        run=found.run_id or "",
        created=made.isoformat(timespec="seconds"),
        aliases=tuple(sorted(aliases)),
    )
