"""Garbage is removed under the lease of its artifact, after one more look.

So nobody builds meanwhile, and what has been finished since the root was listed stays.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import PurePath

from infra import cache
from infra.files import Files
from infra.garbage import LEASE, Scan
from infra.integrity import DamagedError, read_manifest
from infra.lease import leased, living
from infra.references import Reference
from schemas.artifact import Manifest
from schemas.upkeep import Clearance, Garbage


def clearance(
    root: str,
    *,
    older_than_s: float,
    references: Sequence[Reference],
    delete: bool = False,
    shards: bool = False,
) -> Clearance:
    """Find a root's garbage and, if `delete`, remove it.

    Args:
        root: the root's address.
        older_than_s: whatever has changed since is left alone.
        references: which steps name things of which library.
        delete: remove what is found.
        shards: remove shards as well: what they hold would have to be read or computed again.

    Raises:
        StorageError: nothing is there, or the root cannot be read or written.
    """
    scan = Scan(root, older_than_s=older_than_s)
    items = scan.garbage(references)
    if delete:
        items = clear(scan.files, items, shards=shards)
    left = {why: number for why, number in sorted(scan.left.items()) if number}
    return Clearance(
        root=scan.files.address, older_than_s=older_than_s, items=tuple(items), left=left
    )


def clear(files: Files, items: Sequence[Garbage], *, shards: bool) -> list[Garbage]:
    """Remove what is still garbage; returns the same items, those marked that are gone now."""
    told: list[Garbage] = []
    for home, group in groupby(sorted(items, key=lambda one: one.artifact), _artifact):
        mine = list(group)
        wanted = [one for one in mine if shards or one.kind != "shard"]
        gone = _remove(files, home, wanted) if wanted else set()
        told += [one.model_copy(update={"deleted": one.path in gone}) for one in mine]
    return sorted(told, key=lambda one: (one.kind, one.path))


def _artifact(one: Garbage) -> str:
    return one.artifact


def _remove(files: Files, home: str, items: Sequence[Garbage]) -> set[str]:
    """Remove what is garbage still; returns the paths."""
    if not home:
        for one in items:
            _remove_draft(files, one.path)
        return {one.path for one in items}
    if living(files, home):
        return set()
    # A lease of one who died while he let it go hangs in the air: the next holder does not see it.
    links = [name for name in files.sizes(home) if LEASE.fullmatch(name) and name != "lease.json"]
    with leased(files, home):
        try:
            manifest = read_manifest(files, home)
        except DamagedError:
            return set()
        gone = [one for one in items if _still(one, manifest)]
        # A shard goes last: with its manifest, what was found beside it would tell something else.
        for one in sorted(gone, key=lambda one: one.kind == "shard"):
            _remove_one(files, one)
    for link in links:
        files.remove(f"{home}/{link}")
    return {one.path for one in gone}


def _still(one: Garbage, manifest: Manifest | None) -> bool:
    if one.kind == "lease":  # gone with the one that it is looked at under
        return True
    if one.kind in ("attempt", "copy"):
        return manifest is None or manifest.attempt != PurePath(one.path).name
    return (manifest is None) == (one.kind == "unfinished")


def _remove_one(files: Files, one: Garbage) -> None:
    """The lease itself goes when it is released, and with it the emptied folder."""
    if one.kind == "copy":
        _remove_copy(one.path)
    elif one.kind == "unfinished":
        files.remove_tree(f"{one.path}/attempts")
    elif one.kind == "shard":
        files.remove(f"{one.path}/manifest.json")
        files.remove_tree(f"{one.path}/attempts")
    elif one.kind != "lease":
        files.remove_tree(one.path)


def _remove_draft(files: Files, path: str) -> None:
    if PurePath(path).is_absolute():
        _remove_copy(path)
    else:
        files.remove(path)


def _remove_copy(path: str) -> None:
    here = Files.at(str(cache.home()))
    here.remove_tree(PurePath(path).relative_to(here.root).as_posix())
