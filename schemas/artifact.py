"""What one finished step leaves behind: its address, its manifest, its counts."""

from typing import Any

from schemas.frozen import Frozen


class FileEntry(Frozen):
    """One file of an artifact: path relative to the attempt folder, size in bytes, sha256 hex."""

    path: str
    bytes: int
    sha256: str


class Manifest(Frozen):
    """`manifest.json`: committed last, and only once every file it names is in place.

    `provenance` says who built it (infra/provenance.py) and in how many `seconds`.
    """

    format: int = 1
    step: str
    version: int
    fingerprint: str
    attempt: str
    created: str
    config: dict[str, Any]
    parents: dict[str, str]
    inputs: dict[str, str]
    counts: dict[str, int]
    files: tuple[FileEntry, ...]
    provenance: dict[str, Any] = {}


class Artifact(Frozen):
    """The address of a finished step, `{root}/{step}/{fingerprint}`; steps hand on no data."""

    uri: str
    step: str
    fingerprint: str
    reused: bool = False
    counts: dict[str, int] = {}
