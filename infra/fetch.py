"""A small file from a bucket, kept under the name of its content: settings that a team shares."""

import hashlib
import os
from pathlib import Path

from infra.files import Files
from schemas.errors import ConfigError


def fetched(address: str, *, what: str) -> str:
    """The path of a local copy of `s3://bucket/.../name.toml`; a local path is returned as it is.

    Raises:
        ConfigError: another scheme, or no such object.
        StorageError: the endpoint cannot be read.
    """
    if "://" not in address:
        return address
    folder, _, name = address.rpartition("/")
    if not address.startswith("s3://") or not name.endswith(".toml"):
        raise ConfigError(f"{what} {address!r}: give a name, a .toml file or s3://bucket/file.toml")
    data = Files.at(folder).read(name)
    if data is None:
        raise ConfigError(f"{what} {address!r}: there is no such object; check the address")
    cache = Path(os.environ.get("PSAVLM_CACHE") or ".psavlm/cache").absolute()
    path = cache / "settings" / hashlib.sha256(data).hexdigest() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)
