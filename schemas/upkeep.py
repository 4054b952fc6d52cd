"""What `psavlm show`, `verify` and `gc` tell; an artifact here is `step/fingerprint`."""

from typing import Any, Literal

from schemas.frozen import Frozen

Kind = Literal["attempt", "unfinished", "lease", "checkpoints", "draft", "copy", "shard"]


class Ancestor(Frozen):
    """One artifact of a lineage; empty fields where no manifest tells.

    Attributes:
        state: by manifest, names and sizes; hashes are left to `verify`.
        why: what is damaged.
        seconds: what the work took.
        parents: role -> artifact.
        against: the artifact of the same step that was finished before this one, if any.
        changes: setting, `version`, `parents.<role>` or `inputs.<name>` -> (before, now).
    """

    state: Literal["there", "missing", "damaged"]
    why: str = ""
    created: str = ""
    seconds: float | None = None
    commit: str | None = None
    dirty: bool | None = None
    counts: dict[str, int] = {}
    files: int = 0
    bytes: int = 0
    parents: dict[str, str] = {}
    against: str | None = None
    changes: dict[str, tuple[Any, Any]] = {}


class Lineage(Frozen):
    """An artifact with all that it is made of, each once."""

    root: str
    artifact: str
    artifacts: dict[str, Ancestor]


class Fault(Frozen):
    """An artifact and what is wrong with it."""

    artifact: str
    why: str


class Verification(Frozen):
    """What was hashed (numbers), what was damaged, and which parents are not in the root.

    A damaged artifact has lost its manifest, so that the next run rebuilds it. A missing parent is
    no damage: what was made of it is whole.
    """

    root: str
    artifacts: int
    files: int
    bytes: int
    damaged: tuple[Fault, ...]
    missing: tuple[Fault, ...]


class Garbage(Frozen):
    """Something that nobody needs any more.

    Attributes:
        kind: attempt (no manifest names it), unfinished (a folder without manifest), lease (its
            holder is dead), checkpoints (of a finished artifact), draft (of an atomic write or a
            download), copy (local, of an attempt that no manifest names), shard (of things that no
            snapshot names).
        path: relative to the root; a copy's own path on this machine.
        artifact: whose it is, "" for none's.
        changed: time of the newest file, UTC.
    """

    kind: Kind
    path: str
    artifact: str
    bytes: int
    changed: str
    deleted: bool = False


class Clearance(Frozen):
    """What `psavlm gc` found or deleted, and why it left other things alone (reason -> number)."""

    root: str
    older_than_s: float
    items: tuple[Garbage, ...]
    left: dict[str, int]
