"""What makes an artifact itself: one hash over its step, version, config, parents and inputs."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from schemas.artifact import Artifact
from schemas.errors import ConfigError

LENGTH = 24
_STEP = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{LENGTH}}}")
_RESERVED = "runs"  # the folder of training runs lies beside the steps


def fingerprint(
    step: str,
    version: int,
    *,
    config: Mapping[str, Any] | BaseModel,
    parents: Mapping[str, Artifact] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> str:
    """Hash everything that decides an artifact's bytes; the root is not part of it.

    Returns:
        The first 24 hex characters of the sha256 over the canonical JSON.

    Raises:
        ConfigError: the step's name is no folder name, or the config is not plain JSON.
    """
    checked_step(step)
    text = canonical(
        {
            "step": step,
            "version": version,
            "config": config,
            "parents": {name: parent.fingerprint for name, parent in (parents or {}).items()},
            "inputs": dict(inputs or {}),
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def content_hash(value: Any) -> str:
    """The sha256 of a value's canonical JSON: what a settings file says, not where it lies."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """Write a value as JSON with sorted keys and no spaces: equal values give equal text.

    Raises:
        ConfigError: the value holds something without one JSON form (a set, NaN, an object).
    """
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the config cannot be fingerprinted: {error}; use numbers, texts, lists and mappings"
        ) from error


def checked_step(step: str) -> str:
    """Return the step's name if it can be a folder of the store; ConfigError otherwise."""
    if not _STEP.fullmatch(step) or step == _RESERVED:
        raise ConfigError(
            f"step {step!r} cannot be a folder of the store: use small letters, digits, _ . - "
            f"(a letter first), and not {_RESERVED!r}"
        )
    return step


def checked_fingerprint(text: str) -> str:
    """Return the fingerprint if it is one; ConfigError otherwise, so that no path slips in."""
    if not _FINGERPRINT.fullmatch(text):
        raise ConfigError(f"{text!r} is no fingerprint: expected {LENGTH} hex characters")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} {value!r} has no JSON form")
