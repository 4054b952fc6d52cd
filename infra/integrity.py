"""Is an artifact whole? Its manifest against the files that really lie there."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from pydantic import ValidationError

from infra.files import Files
from schemas.artifact import Manifest
from schemas.errors import StorageError

log = logging.getLogger(__name__)

# Up to here every reuse hashes every file; above it names and sizes, and hashes at first local().
SMALL_BYTES = 256 * 2**20
_ATTEMPT = re.compile(r"[0-9a-f]{32}")
# Folders hashed in full by this process: a big artifact is not hashed again at each local().
_hashed: set[str] = set()


class DamagedError(StorageError):
    """An artifact's manifest or one of its files is not what it was."""


def read_manifest(files: Files, folder: str) -> Manifest | None:
    """Read and check `{folder}/manifest.json`; None if there is none.

    Raises:
        DamagedError: it does not parse, belongs elsewhere, or names paths outside its attempt.
    """
    data = files.read(f"{folder}/manifest.json")
    if data is None:
        return None
    where = f"{files.address}/{folder}/manifest.json"
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError:
        raise DamagedError(f"{where} cannot be read as a manifest") from None
    if f"{manifest.step}/{manifest.fingerprint}" != folder:
        raise DamagedError(f"{where} belongs to {manifest.step}/{manifest.fingerprint}")
    if not _ATTEMPT.fullmatch(manifest.attempt):
        raise DamagedError(f"{where} names no attempt: {manifest.attempt!r}")
    for entry in manifest.files:
        path = PurePosixPath(entry.path)
        # An object's key may hold "..": a download must not leave its folder.
        if path.is_absolute() or ".." in path.parts or str(path) != entry.path:
            raise DamagedError(f"{where} names a file outside its attempt: {entry.path!r}")
    return manifest


def present(files: Files, folder: str) -> Manifest:
    """Return the manifest of an artifact that must be there; StorageError if it is not."""
    manifest = read_manifest(files, folder)
    if manifest is None:
        raise StorageError(
            f"no artifact at {files.address}/{folder}; check the address, or run its step again"
        )
    return manifest


def attempt(manifest: Manifest) -> str:
    """Return the folder of the manifest's files, relative to the root."""
    return f"{manifest.step}/{manifest.fingerprint}/attempts/{manifest.attempt}"


def compare(files: Files, path: str, manifest: Manifest, *, deep: bool) -> None:
    """Compare names and sizes in a folder with the manifest, and all hashes if `deep`.

    Raises:
        DamagedError: names the first file that is missing, changed or strange.
    """
    where = f"{files.address}/{path}"
    expected = {entry.path: entry for entry in manifest.files}
    sizes = files.sizes(path)
    for name, entry in expected.items():
        if name not in sizes:
            raise DamagedError(f"{where}/{name} is missing")
        if sizes[name] != entry.bytes:
            raise DamagedError(f"{where}/{name} has {sizes[name]} bytes instead of {entry.bytes}")
    if strange := sorted(sizes.keys() - expected.keys()):
        raise DamagedError(f"{where}/{strange[0]} is not in the manifest")
    if not deep:
        return
    for name, found in files.hashes(path, expected).items():
        if found != expected[name].sha256:
            raise DamagedError(f"{where}/{name} has sha256 {found}, not {expected[name].sha256}")
    remember(files, path)


def remember(files: Files, path: str) -> None:
    """Note that this process has hashed a folder in full."""
    _hashed.add(f"{files.address}/{path}")


def hashed(files: Files, path: str) -> bool:
    """Whether this process has hashed the folder in full."""
    return f"{files.address}/{path}" in _hashed


def sound(files: Files, folder: str) -> Manifest | None:
    """Return the manifest of an artifact that may be reused, None if there is none.

    Raises:
        DamagedError: there is one and it must not be used.
    """
    manifest = read_manifest(files, folder)
    if manifest is not None:
        small = sum(entry.bytes for entry in manifest.files) <= SMALL_BYTES
        compare(files, attempt(manifest), manifest, deep=small)
    return manifest


def condemn(files: Files, folder: str, *, why: DamagedError) -> None:
    """Take a damaged artifact out of use; its files stay until a clean-up."""
    log.warning("damaged: %s; its manifest is removed, it will be rebuilt", why)
    files.remove(f"{folder}/manifest.json")


@contextlib.contextmanager
def condemned(files: Files, folder: str) -> Iterator[None]:
    """Condemn the artifact if the body finds damage, and tell the remedy as a StorageError."""
    try:
        yield
    except DamagedError as error:
        condemn(files, folder, why=error)
        raise StorageError(f"damaged: {error}; run its step again to rebuild it") from None
