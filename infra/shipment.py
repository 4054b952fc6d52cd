"""The project's code as one zip for a cluster that does not have it; same code, same bytes.

The packages with their data files, and what tells people where a result comes from. Ray keeps a
zip by the hash of its bytes, so that an unchanged one travels once.
"""

import json
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from infra.provenance import HOME, LOCK, ORIGIN, provenance

PACKAGES = ("flows", "infra", "model", "schemas", "tasks")
# Modules, and the data files that pyproject.toml names.
SUFFIXES = (".py", ".toml", ".j2", ".css")
CODE = "psavlm.zip"
# Zip knows no earlier moment; a real one would make other bytes of the same code.
_MOMENT = (1980, 1, 1, 0, 0, 0)
_MODE = 0o644 << 16


def shipped() -> dict[str, bytes]:
    """Path -> content of all that goes along, sorted by path."""
    found = {
        path.relative_to(HOME).as_posix(): path.read_bytes()
        for package in PACKAGES
        for path in (HOME / package).rglob("*")
        if path.suffix in SUFFIXES and path.is_file()
    }
    # With it `importlib.metadata` knows the project's version there, too.
    own = distribution("psavlm")
    found[f"psavlm-{own.version}.dist-info/METADATA"] = str(own.metadata).encode()
    told = provenance()
    origin = {"commit": told["commit"], "dirty": told["dirty"]}
    found[ORIGIN] = json.dumps(origin).encode()
    if (HOME / LOCK).is_file():
        found[LOCK] = (HOME / LOCK).read_bytes()
    return dict(sorted(found.items()))


def pack(folder: Path) -> Path:
    """Write the zip into a folder; returns its path."""
    place = folder / CODE
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in shipped().items():
            entry = zipfile.ZipInfo(name, _MOMENT)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, _MODE
            file.writestr(entry, data)
    return place
