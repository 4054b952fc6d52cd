"""Whether a folder's files are those that were written: a list of their hashes, written last."""

import hashlib
import json
from pathlib import Path

SEAL = "checkpoint.json"


def seal(folder: Path) -> None:
    """Write the list of all files in a folder with their sha256."""
    files = {str(path.relative_to(folder)): _hash(path) for path in _files(folder)}
    (folder / SEAL).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")


def damage(folder: Path) -> str:
    """What is wrong with a sealed folder, in words; "" if it is as it was written."""
    try:
        files: dict[str, str] = json.loads((folder / SEAL).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{SEAL} is not readable ({type(error).__name__})"
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _hash(path) != digest:
            return f"{name} is not what was written"
    return ""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
