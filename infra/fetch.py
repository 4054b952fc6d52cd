"""A small file from a bucket, kept under the name of its content: settings that a team shares."""

import hashlib
import os
import uuid
from pathlib import Path

from infra.address import refuse_credentials
from infra.faults import without_secrets
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
    refuse_credentials(address)
    folder, _, name = address.rpartition("/")
    if not address.startswith("s3://") or not name.endswith(".toml"):
        named = without_secrets(address)
        raise ConfigError(f"{what} {named!r}: give a name, a .toml file or s3://bucket/file.toml")
    data = Files.at(folder).read(name)
    if data is None:
        raise ConfigError(f"{what} {address!r}: there is no such object; check the address")
    cache = Path(os.environ.get("PSAVLM_CACHE") or ".psavlm/cache").absolute()
    path = cache / "settings" / hashlib.sha256(data).hexdigest() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another process may read it at this moment: never by half.
    draft = path.with_name(f".{name}.{uuid.uuid4().hex}")
    draft.write_bytes(data)
    draft.replace(path)
    return str(path)
