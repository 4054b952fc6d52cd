"""What nobody needs any more in a root: found from one listing of it; nothing is written.

Never anything young or under a living lease, and only what the store itself has made: decisions,
notes, checkpoints of unfinished runs and other people's files are not looked at. Of who died while
he decided or noted only drafts and leases are.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np

from infra import cache, decisions
from infra.digests import within
from infra.files import Files
from infra.fingerprint import LENGTH
from infra.integrity import DamagedError, read_manifest
from infra.lease import living, unreleased
from infra.listing import Tree, below, by_first, homes
from infra.references import Key, Reference, held, named
from schemas.artifact import Manifest
from schemas.errors import StorageError
from schemas.upkeep import Garbage, Kind

READERS = 8
# No lease guards a draft: a write or a download may take as long as this.
DRAFT_S = 3600.0
_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}|\.probe-[0-9a-f]{32}")
LEASE = re.compile(r"lease(-[0-9a-f]{32})?\.json")
_RUN = re.compile(rf"runs/(([^/]+)-([0-9a-f]{{{LENGTH}}}))(/.+)?")
_OF_DRAFTS = ("", "seen", decisions.FOLDER)

YOUNG, IN_USE, DAMAGED = "too young", "in use", "damaged: psavlm verify"


class Scan:
    """A root as it is listed now; StorageError if nothing is there, or it cannot be read.

    Attributes:
        left: why things were left alone -> how many.
    """

    def __init__(self, root: str, *, older_than_s: float) -> None:
        self.files = Files.at(root)
        self.left: Counter[str] = Counter()
        self._older_than_s = older_than_s
        self._now = time.time()
        self._found = self.files.found()
        if not self._found:
            raise StorageError(f"nothing in the store {root}: check --root")
        self._homes = homes(self._found)
        self._damaged: set[str] = set()
        finished = [home for home, tree in self._homes.items() if "manifest.json" in tree]
        with ThreadPoolExecutor(READERS) as pool:
            read = zip(finished, pool.map(self._manifest, finished), strict=True)
            self._manifests = {home: manifest for home, manifest in read if manifest}

    def garbage(self, references: Sequence[Reference]) -> list[Garbage]:
        """All of it, by kind and path."""
        found = [*self._in_homes(), *self._checkpoints(), *self._drafts()]
        found += self._leases(decisions.FOLDER, below(self._found, decisions.FOLDER))
        if not self.files.local:
            found += self._copies()
        for by in references:
            found += self._shards(by)
        return sorted(found, key=lambda one: (one.kind, one.path))

    def _manifest(self, home: str) -> Manifest | None:
        try:
            return read_manifest(self.files, home)
        except DamagedError:
            self._damaged.add(home)
            return None

    def _in_homes(self) -> Iterator[Garbage]:
        self.left[DAMAGED] += len(self._damaged)
        for home in self._homes.keys() - self._damaged:
            tree, manifest = self._homes[home], self._manifests.get(home)
            if manifest is None:
                ours = {name: found for name, found in tree.items() if _is_ours(name)}
                if ours.keys() - {""} or tree.keys() == {""}:
                    yield from self._one("unfinished", home, home, ours)
                continue
            yield from self._leases(home, tree)
            for owner, attempt in by_first(tree, below="attempts/").items():
                if owner != manifest.attempt:
                    yield from self._one("attempt", f"{home}/attempts/{owner}", home, attempt)

    def _leases(self, home: str, tree: Tree) -> Iterator[Garbage]:
        leases = {name: found for name, found in tree.items() if LEASE.fullmatch(name)}
        if leases:
            yield from self._one("lease", f"{home}/lease.json", home, leases)

    def _checkpoints(self) -> Iterator[Garbage]:
        runs: dict[tuple[str, str], Tree] = {}
        for path, found in self._found.items():
            if match := _RUN.fullmatch(path):
                run = f"runs/{match[1]}", f"{match[2]}/{match[3]}"
                runs.setdefault(run, {})[path] = found
        for (path, home), tree in runs.items():
            if home in self._manifests:
                yield from self._one("checkpoints", path, home, tree)

    def _drafts(self) -> Iterator[Garbage]:
        for path, found in self._found.items():
            folder, _, name = path.rpartition("/")
            if _DRAFT.fullmatch(name) and (folder in _OF_DRAFTS or folder in self._homes):
                yield from self._one("draft", path, "", {path: found})

    def _copies(self) -> Iterator[Garbage]:
        """Of this root's artifacts alone: the copies of other roots lie in the same folder."""
        here = Files.at(str(cache.home()))
        everything = here.found()
        for name, tree in by_first(everything, below=cache.INCOMING + "/").items():
            yield from self._one("draft", f"{here.root}/{cache.INCOMING}/{name}", "", tree)
        for home, tree in homes(everything).items():
            if home not in self._homes or home in self._damaged:
                continue
            manifest = self._manifests.get(home)
            for owner, copy in by_first(tree).items():
                if manifest is None or owner != manifest.attempt:
                    yield from self._one("copy", f"{here.root}/{home}/{owner}", home, copy)

    def _shards(self, by: Reference) -> list[Garbage]:
        """Shards of which no artifact names anything; none while that cannot be known."""
        # What is deleted here is not looked at under its user's lease, so no clock may decide.
        if any(unreleased(self.files, home) for home in self._homes if _is_of(home, by.step)):
            self.left[f"{by.shards} {IN_USE}"] += 1
            return []
        try:
            return list(self._unnamed(by, self._names(by)))
        except DamagedError:
            self.left[f"{by.shards} {DAMAGED}"] += 1
            return []

    def _names(self, by: Reference) -> dict[Key, np.ndarray]:
        """Library's key -> the ids that artifacts name; DamagedError if one cannot be read."""
        if unread := [home for home in self._damaged if _is_of(home, by.step)]:
            raise DamagedError(unread[0])
        names: dict[Key, np.ndarray] = {}
        for home, manifest in self._manifests.items():
            if _is_of(home, by.step) and (told := named(self.files, manifest, by)):
                key, ids = told
                names[key] = np.union1d(names[key], ids) if key in names else ids
        return names

    def _unnamed(self, by: Reference, names: dict[Key, np.ndarray]) -> Iterator[Garbage]:
        for home, manifest in self._manifests.items():
            if not _is_of(home, by.shards):
                continue
            key, ids = held(self.files, manifest)
            mine = names.get(key) if manifest.version == by.shard_version else None
            if mine is None or not within(ids, mine).any():
                attempts = by_first(self._homes[home], below="attempts/")
                yield from self._one("shard", home, home, attempts.get(manifest.attempt, {}))

    def _one(self, kind: Kind, path: str, home: str, tree: Tree) -> Iterator[Garbage]:
        """The thing, unless it is young or in use."""
        changed = max((found.changed for found in tree.values()), default=self._now)
        least = max(self._older_than_s, DRAFT_S) if kind == "draft" else self._older_than_s
        if self._now - changed < least:
            self.left[YOUNG] += 1
        elif home and living(self.files, home):
            self.left[IN_USE] += 1
        else:
            yield Garbage(
                kind=kind,
                path=path,
                artifact=home,
                bytes=sum(found.bytes for found in tree.values()),
                changed=datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds"),
            )


def _is_ours(name: str) -> bool:
    known = name in ("", "attempts") or name.startswith("attempts/")
    return known or bool(LEASE.fullmatch(name))


def _is_of(home: str, step: str) -> bool:
    return home.startswith(f"{step}/")
