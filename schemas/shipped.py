"""The TOML files that the package ships, and people's own, by name or by path."""

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from schemas.explain import did_you_mean


def read_toml(name: str, *, folder: str | None, what: str) -> dict[str, Any]:
    """A shipped TOML by name, or one's own by path ending in `.toml`; else ConfigError."""
    try:
        return tomllib.loads(_text(name, folder, what))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{what} {name!r} is not valid TOML: {error}; correct the file"
        ) from error


def _text(name: str, folder: str | None, what: str) -> str:
    known = shipped(folder)
    if not name.endswith(".toml"):
        if name not in known:
            raise ConfigError(
                f"unknown {what} {name!r}; {did_you_mean(name, known)}give one of "
                f"{', '.join(known)}, or the path of a .toml file"
            )
        return _folder(folder).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{what} file {name!r} cannot be read: {error.strerror}; correct the path, or give "
            f"one of {', '.join(known)}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{what} file {name!r} is no UTF-8 text: {error}; save it as such"
        ) from error


def shipped(folder: str | None) -> list[str]:
    """Names of the TOML files that the package ships in a folder of `schemas`."""
    entries = _folder(folder).iterdir()
    return sorted(e.name[:-5] for e in entries if e.name.endswith(".toml"))


def _folder(name: str | None) -> Traversable:
    base = resources.files("schemas")
    return base.joinpath(name) if name else base
