"""Addresses: what a root and an artifact's URI may look like."""

import os

from infra.faults import holds_credentials, without_secrets
from infra.fingerprint import checked_fingerprint, checked_step
from schemas.errors import ConfigError

_FORM = "give the address root/step/fingerprint that a finished step prints"


def checked_address(root: str) -> str:
    """Return a root in its one form: an absolute folder, or `s3://bucket/prefix`.

    Raises:
        ConfigError: another scheme, no bucket, or credentials inside the address.
    """
    scheme, _, rest = root.partition("://") if "://" in root else ("", "", root)
    if scheme not in ("", "s3") or not rest.strip("/ ") or "\0" in root:
        named = without_secrets(root)
        raise ConfigError(f"root {named!r} is no store: give a folder or s3://bucket/prefix")
    if not scheme:
        return os.path.abspath(os.path.expanduser(root))
    refuse_credentials(root)
    return f"s3://{rest.strip('/')}"


def refuse_credentials(address: str) -> None:
    """ConfigError, which does not repeat them, where an s3:// address begins with a key."""
    if holds_credentials(address):
        raise ConfigError(
            "an address must not hold credentials: give s3://bucket/prefix, and the key by "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile"
        )


def split_uri(uri: str) -> tuple[str, str]:
    """Split an artifact's address into its root and its folder, `{step}/{fingerprint}`."""
    refuse_credentials(uri)
    parts = uri.rstrip("/").rsplit("/", 2)
    if len(parts) != 3:
        raise ConfigError(f"{uri!r} is no artifact: {_FORM}")
    try:
        folder = f"{checked_step(parts[1])}/{checked_fingerprint(parts[2])}"
    except ConfigError as error:
        raise ConfigError(f"{uri!r} is no artifact ({error}): {_FORM}") from None
    return checked_address(parts[0]), folder
