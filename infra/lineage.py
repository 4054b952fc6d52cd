"""What an artifact is made of: its manifest and its ancestors', each once; nothing is changed."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

from infra.address import checked_address, split_uri
from infra.files import Files
from infra.fingerprint import LENGTH, checked_step
from infra.integrity import DamagedError, attempt, compare, present, read_manifest
from infra.planning import PlanningStore
from schemas.artifact import Manifest
from schemas.errors import ConfigError
from schemas.upkeep import Ancestor, Lineage

FINGERPRINT = re.compile(rf"[0-9a-f]{{{LENGTH}}}")
_PREFIX = re.compile(rf"(?:(?P<step>[^/]+)/)?(?P<start>[0-9a-f]{{1,{LENGTH}}})")


def is_step(name: str) -> bool:
    """Whether a folder of a root may be a step's."""
    try:
        return bool(checked_step(name))
    except ConfigError:
        return False


def is_artifact(folder: str) -> bool:
    """Whether this is `step/fingerprint`; what a manifest names may be anything."""
    step, _, name = folder.partition("/")
    return is_step(step) and bool(FINGERPRINT.fullmatch(name))


def folders(files: Files) -> Iterator[str]:
    """All `step/fingerprint` of a root, with or without a manifest, in order."""
    for step in filter(is_step, files.folders("")):
        for name in files.folders(step):
            if FINGERPRINT.fullmatch(name):
                yield f"{step}/{name}"


def located(text: str, *, root: str) -> tuple[str, str]:
    """From what people type to a root and the artifact in it, `step/fingerprint`.

    Args:
        text: an address, or in `root` a fingerprint, or its beginning, alone or after `step/`.
        root: where to look.

    Raises:
        ConfigError: this names none, or several.
    """
    match = _PREFIX.fullmatch(text)
    if not match:
        return split_uri(text)
    root = checked_address(root)
    files, step = Files.at(root), match["step"]
    if step and FINGERPRINT.fullmatch(match["start"]):
        return root, f"{checked_step(step)}/{match['start']}"
    there = folders(files) if step is None else _of_step(files, checked_step(step))
    found = [folder for folder in there if folder.rpartition("/")[2].startswith(match["start"])]
    if len(found) != 1:
        what = f"is {', '.join(found[:4])}: give more of it" if found else "is nothing there"
        raise ConfigError(f"{text!r} in the store {root} {what}, or the address a step printed")
    return root, found[0]


def lineage(root: str, folder: str) -> Lineage:
    """An artifact and its ancestors in the same root; what is missing or damaged says so.

    Raises:
        StorageError: there is no such artifact, or the root cannot be read.
    """
    store = PlanningStore(root)
    files = Files.at(store.root)
    finished = functools.cache(store.finished)
    found: dict[str, Ancestor] = {}
    waiting = [folder]
    while waiting:
        if (name := waiting.pop()) not in found:
            found[name] = _ancestor(files, name, finished)
            waiting += found[name].parents.values()
    if found[folder].state == "missing":
        present(files, folder)
    return Lineage(root=store.root, artifact=folder, artifacts=found)


def _of_step(files: Files, step: str) -> list[str]:
    names = files.folders(step)
    return [f"{step}/{name}" for name in names if FINGERPRINT.fullmatch(name)]


def _ancestor(files: Files, folder: str, finished: Callable[[str], list[Manifest]]) -> Ancestor:
    if not is_artifact(folder):
        return Ancestor(state="damaged", why=f"{folder!r} is no artifact's address")
    try:
        manifest = read_manifest(files, folder)
    except DamagedError as error:
        return Ancestor(state="damaged", why=str(error))
    if manifest is None:
        return Ancestor(state="missing")
    why = ""
    try:
        compare(files, attempt(manifest), manifest, deep=False)
    except DamagedError as error:
        why = str(error)
    earlier = [one for one in finished(manifest.step) if one.created < manifest.created]
    told = manifest.provenance
    return Ancestor(
        state="damaged" if why else "there",
        why=why,
        created=manifest.created,
        seconds=told.get("seconds"),
        commit=told.get("commit"),
        dirty=told.get("dirty"),
        counts=manifest.counts,
        files=len(manifest.files),
        bytes=sum(entry.bytes for entry in manifest.files),
        parents=manifest.parents,
        against=f"{manifest.step}/{earlier[0].fingerprint}" if earlier else None,
        changes=_changes(earlier[0], manifest) if earlier else {},
    )


def _changes(before: Manifest, now: Manifest) -> dict[str, tuple[Any, Any]]:
    old, new = _flat(before), _flat(now)
    names = sorted(old.keys() | new.keys())
    return {
        name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)
    }


def _flat(manifest: Manifest) -> dict[str, Any]:
    """All that the fingerprint is made of, by dotted name."""
    rest = {"version": manifest.version, "parents": manifest.parents, "inputs": manifest.inputs}
    return dict(_leaves({**manifest.config, **rest}))


def _leaves(table: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
