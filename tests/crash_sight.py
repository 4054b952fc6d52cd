"""What can be seen in a root after a death, and what `psavlm verify` and `psavlm gc` say of it."""

import contextlib
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.clearing import clearance
from infra.files import Files
from infra.verification import verify
from tasks.progress import progress
from tasks.references import REFERENCES
from tests.crash_scenario import Scenario

_OWNER = re.compile(r"(attempts/|cache/[^/]+/[0-9a-f]{24}/)[0-9a-f]{32}")
# What differs between two runs and is no content.
_OF_A_RUN = {
    "manifest.json": ("attempt", "created", "provenance"),
    "decision": ("time", "commit"),
}
# Counts of what had to be done, which is less where a library has been there before.
_OF_WORK = ("decoded", "new_bytes")

Tree = list[tuple[str, str]]


@dataclass(frozen=True)
class Sight:
    """A root and its cache on this machine."""

    scenario: Scenario
    root: str
    cache: Path

    def emptied(self) -> None:
        """Nothing is in the bucket."""
        files = Files.at(self.root)
        with contextlib.suppress(FileNotFoundError):
            files.fs.rm(files.root, recursive=True)

    def look(self) -> tuple[list[str], list[str]]:
        """What is wrong to see after the death; and the kinds of garbage, which stays."""
        self.scenario.state(self.root)
        faults = self.sound(missing=False) if self.scenario.whole else []
        before = self.tree()
        garbage = [one.kind for one in self.garbage(delete=False)]
        if self.tree() != before:
            faults.append("gc changed something without --delete")
        return faults, garbage

    def sound(self, *, missing: bool) -> list[str]:
        """What `psavlm verify` finds."""
        if not any(path.endswith("/manifest.json") for path in Files.at(self.root).found()):
            return []
        told = verify(self.root, None, references=REFERENCES, progress=progress)
        return [fault.why for fault in (*told.damaged, *(told.missing if missing else ()))]

    def clear(self) -> None:
        """`psavlm gc --delete`; no garbage is left but things that a rerun may still use."""
        self.garbage(delete=True)
        left = [one for one in self.garbage(delete=False) if one.kind != "shard"]
        assert not left, left

    def garbage(self, *, delete: bool) -> list[Any]:
        """What `psavlm gc` finds, or deletes."""
        if not Files.at(self.root).found():
            return []
        told = clearance(self.root, older_than_s=0, references=REFERENCES, delete=delete)
        return list(told.items)

    def found(self) -> dict[str, Any]:
        """All that must be the same at the end."""
        return {"tree": self.tree(), "state": self.scenario.state(self.root)}

    def tree(self) -> Tree:
        """Path and content of all in the root and in the cache, without what is of a run only."""
        files, cache = Files.at(self.root), Files.at(str(self.cache))
        # The empty folder of a step is nothing.
        names = [name for name in files.found() if "/" in name]
        found = [(name, self._content(files, name)) for name in names]
        found += [(f"cache/{name}", self._content(cache, name)) for name in cache.found()]
        return sorted((_OWNER.sub(r"\1*", name), content) for name, content in found)

    def _content(self, files: Files, name: str) -> str:
        if files.local and files.folder(name).is_dir():
            return "folder"
        data = files.read(name) or b""
        kind = "decision" if name.startswith("decisions/") else name.rpartition("/")[2]
        if kind in _OF_A_RUN and name.endswith(".json"):
            told = json.loads(data)
            for field in _OF_A_RUN[kind]:
                told.pop(field, None)
            for count in _OF_WORK:
                told.get("counts", {}).pop(count, None)
            data = json.dumps(told, sort_keys=True).encode()
        return hashlib.sha256(data).hexdigest()


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    here, there = (Counter(map(tuple, one["tree"])) for one in (found, expected))
    told = [f"more: {sorted(here - there)[:5]}", f"less: {sorted(there - here)[:5]}"]
    if found["state"] != expected["state"]:
        told.append(f"state: {found['state']} instead of {expected['state']}")
    return "; ".join(told)
