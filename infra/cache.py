"""Local copies of remote artifacts: built here, or fetched, checked and then renamed in place.

A copy counts only while a manifest names its attempt. The folder is `.psavlm/cache` under the
working directory, or PSAVLM_CACHE.
"""

import logging
import os
import uuid
from pathlib import Path

from infra.disk import alone, clear, free_bytes
from infra.files import Files
from infra.integrity import DamagedError, attempt, compare, hashed, remember
from schemas.artifact import Manifest
from schemas.errors import ConfigError, StorageError

log = logging.getLogger(__name__)

INCOMING, LOCKS = ".incoming", ".locks"
# Bytes of this disk that features in a bucket may take, and the step whose copies they are.
BUDGET, FEATURES = "PSAVLM_STAGE_BYTES", "features"


def place(folder: str, owner: str) -> Path:
    """Return where the files of one attempt lie: built here, or fetched."""
    return home() / folder / owner


def empty(folder: Path) -> Path:
    """Make a new working folder; StorageError if it cannot be made."""
    return made(folder, fresh=True)


def made(folder: Path, *, fresh: bool = False) -> Path:
    """Make a folder, a new one if `fresh`; StorageError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=not fresh)
    except OSError as error:
        raise StorageError(
            f"cannot make {folder}: {error.strerror}; make it writable, or set PSAVLM_CACHE"
        ) from None
    return folder


def fetch(files: Files, manifest: Manifest) -> Path:
    """Return a local folder with the files of a remote artifact, hashed once per process.

    Of several processes one fetches, and the others wait for its copy.

    Raises:
        DamagedError: what the remote root holds is not what the manifest says.
    """
    if place(f"{manifest.step}/{manifest.fingerprint}", manifest.attempt).exists():
        return _fetch(files, manifest)
    lock = made(home() / LOCKS) / f"{manifest.step}-{manifest.attempt}"
    with alone(lock):
        copy = _fetch(files, manifest)
        lock.unlink(missing_ok=True)  # who comes now finds the copy
    return copy


def _fetch(files: Files, manifest: Manifest) -> Path:
    here = Files.at(str(home()))
    path = f"{manifest.step}/{manifest.fingerprint}/{manifest.attempt}"
    copy = here.folder(path)
    if copy.exists():
        try:
            compare(here, path, manifest, deep=not hashed(here, path))
            return copy
        except DamagedError as error:
            log.warning("damaged copy: %s; it will be fetched again", error)
            clear(copy)
    incoming = f"{INCOMING}/{uuid.uuid4().hex}"
    draft = empty(here.folder(incoming))
    try:
        compare(files, attempt(manifest), manifest, deep=False)
        files.download(attempt(manifest), draft, names=[entry.path for entry in manifest.files])
        compare(here, incoming, manifest, deep=True)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.rename(copy)
        except OSError:
            if not copy.exists():  # else another process fetched the same bytes
                raise
        remember(here, path)
    finally:
        clear(draft)
    return copy


def home() -> Path:
    """Return the folder of all local copies."""
    return Path(os.environ.get("PSAVLM_CACHE") or ".psavlm/cache").absolute()


def forget(folder: str) -> None:
    """Remove the copy of a remote artifact, `{step}/{fingerprint}`; none is fine."""
    clear(home() / folder)


def budget() -> int | None:
    """Bytes that features in a bucket may take on this disk, PSAVLM_STAGE_BYTES; None if not set.

    Raises:
        ConfigError: the setting is no number of bytes.
    """
    given = os.environ.get(BUDGET, "")
    if given and not given.isdecimal():
        raise ConfigError(f"{BUDGET} is {given!r}: give a whole number of bytes, or leave it out")
    return int(given) if given else None


def room(taken: int) -> int:
    """Bytes that features may take here beside those of `taken`: the budget's rest, or free / 2."""
    given = budget()
    return free_bytes(home()) // 2 if given is None else max(given - taken, 0)
