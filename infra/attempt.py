"""One build of one artifact: an empty folder, the work, the hashes, the commit."""

import contextlib
import errno
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from infra import cache
from infra.disk import clear, flush_tree
from infra.files import Files
from infra.fingerprint import canonical, fingerprint
from infra.integrity import remember, sound
from infra.provenance import provenance
from schemas.artifact import Artifact, FileEntry, Manifest
from schemas.errors import StorageError

log = logging.getLogger(__name__)

Build = Callable[[Path], Mapping[str, int]]


def plan(
    step: str,
    version: int,
    *,
    config: Mapping[str, Any] | BaseModel,
    parents: Mapping[str, Artifact] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the manifest's fields that are known before the work, the fingerprint among them."""
    return {
        "step": step,
        "version": version,
        "fingerprint": fingerprint(step, version, config=config, parents=parents, inputs=inputs),
        "config": json.loads(canonical(config)),
        "parents": {role: f"{p.step}/{p.fingerprint}" for role, p in (parents or {}).items()},
        "inputs": dict(inputs or {}),
    }


def make(files: Files, draft: dict[str, Any], *, build: Build) -> tuple[Manifest, bool]:
    """Build into a fresh attempt folder and commit the manifest, last.

    Args:
        files: the root.
        draft: what `plan` returned, and the attempt's owner.
        build: fills an empty local folder and returns counts.

    Returns:
        The manifest that counts now, and whether it is this one.
    """
    folder, owner = f"{draft['step']}/{draft['fingerprint']}", draft["attempt"]
    path, work = f"{folder}/attempts/{owner}", _work(files, folder, owner=owner)
    with _undone(files, folder, owner=owner):
        cache.empty(work)
        began = time.monotonic()
        with _room(work):
            counts = dict(build(work))
        manifest = Manifest(
            **draft,
            counts=counts,
            files=_entries(work),
            provenance={**provenance(), "seconds": round(time.monotonic() - began, 1)},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if files.local:
            flush_tree(work)
        else:
            files.upload(work, path, names=[entry.path for entry in manifest.files])
    text = manifest.model_dump_json(indent=2)
    if files.put(f"{folder}/manifest.json", text.encode(), fresh=True):
        return manifest, True
    log.info("%s/%s was built by another process first; using that", files.address, folder)
    drop(files, folder, owner=owner)
    if (theirs := sound(files, folder)) is None:
        raise StorageError(f"{files.address}/{folder} vanished while it was built; run again")
    return theirs, False


def drop(files: Files, folder: str, *, owner: str) -> None:
    """Remove an attempt, here and in the root; none is fine."""
    clear(_work(files, folder, owner=owner))
    files.remove_tree(f"{folder}/attempts/{owner}")


def _work(files: Files, folder: str, *, owner: str) -> Path:
    """Say where an attempt is built: in place, or for a remote root where its copy will be."""
    return files.folder(f"{folder}/attempts/{owner}") if files.local else cache.place(folder, owner)


@contextlib.contextmanager
def _room(work: Path) -> Iterator[None]:
    """Tell a full or broken disk in one message."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise
        raise StorageError(
            f"cannot write {work}: {error.strerror}; make room there, or give another root"
        ) from error


@contextlib.contextmanager
def _undone(files: Files, folder: str, *, owner: str) -> Iterator[None]:
    """Leave nothing of an attempt behind when it fails, whatever stopped it."""
    try:
        yield
    except BaseException:
        try:
            drop(files, folder, owner=owner)
        except StorageError as error:  # the first failure is the one to tell
            log.warning("an attempt stays behind: %s", error)
        raise


def _entries(work: Path) -> tuple[FileEntry, ...]:
    here = Files.at(str(work.parent))
    sizes = here.sizes(work.name)
    hashes = here.hashes(work.name, sizes)
    remember(here, work.name)
    return tuple(
        FileEntry(path=name, bytes=size, sha256=hashes[name]) for name, size in sizes.items()
    )
