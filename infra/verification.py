"""Is a root whole? All files by hash, all artifacts by fingerprint, all ids by their shards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from infra.digests import texts, within
from infra.files import Files
from infra.fingerprint import fingerprint
from infra.integrity import DamagedError, attempt, compare, read_manifest
from infra.lineage import folders, is_artifact
from infra.references import Key, Reference, held, lost, named
from schemas.artifact import Artifact, Manifest
from schemas.errors import StorageError
from schemas.upkeep import Fault, Verification

# Title and total -> a context with tick(done, note), such as tasks.progress.progress.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int, str], None]]]


def verify(
    root: str,
    wanted: Sequence[str] | None,
    *,
    references: Sequence[Reference],
    progress: Progress,
) -> Verification:
    """Hash artifacts and all they rest on: ancestors, and the shards that hold what they name.

    A damaged artifact loses its manifest, so that the next run rebuilds it.

    Args:
        root: the root's address.
        wanted: artifacts, `step/fingerprint`; None for all of the root.
        references: which steps name things of which library.
        progress: told how far it is.

    Raises:
        StorageError: an artifact that is wanted is not there, the root holds none at all, or it
            cannot be read.
    """
    check = _Check(Files.at(root), references, progress)
    names = list(folders(check.files)) if wanted is None else list(wanted)
    # Shards first: whether an id is anywhere is asked of those that are whole.
    check.look_at("verify", sorted(names, key=lambda name: not check.is_shard(name)))
    if wanted is None and len(check.absent) == len(names):
        raise StorageError(f"no artifact in the store {root}: check --root")
    if absent := [name for name in wanted or () if name in check.absent]:
        raise StorageError(f"no artifact {absent[0]} in the store {root}: run its step again")
    check.look_up_ids()
    return check.told()


@dataclass
class _Check:
    files: Files
    references: Sequence[Reference]
    progress: Progress
    sound: dict[str, Manifest] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    missing: list[Fault] = field(default_factory=list)
    looked: list[Manifest] = field(default_factory=list)

    def is_shard(self, folder: str) -> bool:
        return folder.partition("/")[0] in {by.shards for by in self.references}

    def look_at(self, title: str, names: Sequence[str]) -> None:
        with self.progress(title, len(names)) as tick:
            for done, name in enumerate(names, start=1):
                self.look(name)
                tick(done, name)

    def look(self, folder: str) -> bool:
        """Hash an artifact and its ancestors, each once; whether it is (still) there."""
        if folder in self.sound or folder in self.damaged or folder in self.absent:
            return folder not in self.absent
        try:
            manifest = read_manifest(self.files, folder)
            if manifest is None:
                self.absent.add(folder)
                return False
            self.looked.append(manifest)
            _check_fingerprint(self.files, manifest)
            compare(self.files, attempt(manifest), manifest, deep=True)
        except DamagedError as error:
            self._condemn(folder, error)
            return True
        self.sound[folder] = manifest
        for role, parent in manifest.parents.items():
            if not self.look(parent):
                why = f"its parent {role} {parent} is not in the root"
                self.missing.append(Fault(artifact=folder, why=why))
        return True

    def look_up_ids(self) -> None:
        """Find every id that a sound artifact names in a sound shard."""
        for by in self.references:
            users = [name for name in self.sound if name.startswith(f"{by.step}/")]
            users = [name for name in users if self.sound[name].version >= by.since]
            if not users:
                continue
            shards = dict(self._shards(by))
            for name in users:
                try:
                    self._find_ids(self.sound[name], by, shards)
                except DamagedError as error:
                    del self.sound[name]
                    self._condemn(name, error)

    def _find_ids(
        self, manifest: Manifest, by: Reference, shards: dict[str, tuple[Key, np.ndarray]]
    ) -> None:
        """Hash the shards that an artifact needs; DamagedError if an id is in none of them."""
        if (asked := named(self.files, manifest, by)) is None:
            return
        key, ids = asked
        mine = {name: there for name, (k, there) in shards.items() if k == key}
        needed = [name for name, there in mine.items() if within(there, ids).any()]
        self.look_at(f"verify {by.shards}", needed)
        among = [there for name, there in mine.items() if name not in self.damaged]
        if (gone := lost(ids, among=among)).size:
            raise DamagedError(
                f"{self.files.address}/{by.step}/{manifest.fingerprint}: {gone.size} of its "
                f"{ids.size} {by.shards} are in no shard, such as {texts(gone[:1])[0]}"
            )

    def _shards(self, by: Reference) -> Iterator[tuple[str, tuple[Key, np.ndarray]]]:
        """A library's shards: folder, and what each holds. One whose index is bad is condemned."""
        for name in folders(self.files):
            if not name.startswith(f"{by.shards}/") or name in self.damaged:
                continue
            try:
                manifest = read_manifest(self.files, name)
                if manifest is not None and manifest.version == by.shard_version:
                    yield name, held(self.files, manifest)
            except DamagedError as error:
                self._condemn(name, error)

    def _condemn(self, folder: str, why: DamagedError) -> None:
        self.damaged[folder] = str(why)
        self.files.remove(f"{folder}/manifest.json")

    def told(self) -> Verification:
        entries = [entry for manifest in self.looked for entry in manifest.files]
        faults = tuple(Fault(artifact=name, why=why) for name, why in sorted(self.damaged.items()))
        return Verification(
            root=self.files.address,
            artifacts=len(self.sound) + len(self.damaged),
            files=len(entries),
            bytes=sum(entry.bytes for entry in entries),
            damaged=faults,
            missing=tuple(self.missing),
        )


def _check_fingerprint(files: Files, manifest: Manifest) -> None:
    """DamagedError unless the manifest's own ingredients give its fingerprint."""
    where = f"{files.address}/{manifest.step}/{manifest.fingerprint}/manifest.json"
    parents = {}
    for role, parent in manifest.parents.items():
        if not is_artifact(parent):
            raise DamagedError(f"{where} names a parent that is none: {parent!r}")
        step, _, name = parent.partition("/")
        parents[role] = Artifact(uri="", step=step, fingerprint=name)
    own = fingerprint(
        manifest.step,
        manifest.version,
        config=manifest.config,
        parents=parents,
        inputs=manifest.inputs,
    )
    if own != manifest.fingerprint:
        raise DamagedError(f"{where} was changed: its ingredients make {own}")
