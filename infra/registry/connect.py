"""How to reach MLflow: a database of our own under `.psavlm/`, or MLFLOW_TRACKING_URI."""

import contextlib
import logging
import os
import re
import uuid
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import OutageError, StorageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATE = Path(".psavlm")
DATABASE, ARTIFACTS = "mlflow.db", "mlflow-artifacts"
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # MLflow's own 7 retries make a server that is down look like one that hangs, for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
# What MLflow calls a server or a database that does not answer; other codes are answers.
OUTAGES = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
_SQLITE = "sqlite:///"
_SECRET = re.compile(r"://[^/@\s]+@")


def tracking_uri() -> str:
    """Where the registry is: MLFLOW_TRACKING_URI, or the database of `.psavlm/` here."""
    own = _SQLITE + str((STATE / DATABASE).absolute())
    return os.environ.get("MLFLOW_TRACKING_URI") or own


def page_address(local: str) -> str:
    """Where people look at the registry: its server's page, or `local` for the database here."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return local
    return _SECRET.sub("://", uri).rstrip("/") if uri.startswith(("http://", "https://")) else ""


def is_local(uri: str) -> bool:
    """Whether only this machine sees the registry."""
    return uri.startswith((_SQLITE, "file:"))


def exists(uri: str) -> bool:
    """Whether there can be anything in the registry: looking must not make a database."""
    return not uri.startswith(_SQLITE) or Path(uri.removeprefix(_SQLITE)).exists()


def artifact_location(uri: str) -> str | None:
    """Where runs keep files: beside the database; None lets a server decide."""
    if uri.startswith(("http://", "https://")):
        return None
    beside = Path(uri.removeprefix(_SQLITE)).parent if uri.startswith(_SQLITE) else STATE
    return (beside / ARTIFACTS).absolute().as_uri()


@lru_cache
def connected(uri: str) -> "MlflowClient":
    """A client; the database is made if there is none. StorageError if it cannot be reached."""
    if uri.startswith(_SQLITE):
        folder = Path(uri.removeprefix(_SQLITE)).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the registry's folder {folder}: {error.strerror}; make it writable, "
                "or set MLFLOW_TRACKING_URI"
            ) from error
    _prepare()
    from mlflow import MlflowClient

    # Making the database is told at length, by two libraries.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not exists(uri):
        _make_database(Path(uri.removeprefix(_SQLITE)))
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _make_database(path: Path) -> None:
    """Make it under another name first: MLflow never recovers from a half-made one."""
    from mlflow import MlflowClient

    # A name for once: MLflow believes in a database that it has made before.
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        MlflowClient(tracking_uri=f"{_SQLITE}{draft}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into one line without credentials."""
    _prepare()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        text = _SECRET.sub("://", " ".join(str(error).split()))
        kind = OutageError if error.error_code in OUTAGES else StorageError
        raise kind(
            f"the registry at {_SECRET.sub('://', uri)} cannot be used: {text:.300}; check that it "
            "is up (make up) and MLFLOW_TRACKING_URI"
        ) from None


@contextlib.contextmanager
def or_another_made_it() -> Iterator[None]:
    """Let a creation fail where another process was quicker."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _prepare() -> None:
    """Settings must be in the environment before MLflow is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
