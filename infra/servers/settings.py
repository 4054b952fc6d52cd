"""Where the servers listen: one setting each, read as Prefect reads its own.

The environment counts before `.env`, that before prefect.toml, that before pyproject.toml, all of
the project's folder.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values

from schemas.errors import ConfigError

PREFECT_URL = "PREFECT_API_URL"
LOOPBACK = ("127.0.0.1", "localhost")


def settings(root: Path) -> dict[str, str]:
    """All settings of the environment and of `.env`; empty ones count as not given."""
    given = (*dotenv_values(root / ".env").items(), *os.environ.items())
    return {name: value for name, value in given if value}


def prefect_url(root: Path, given: Mapping[str, str]) -> str:
    """The API address that Prefect's clients use in this folder; "" if none is set anywhere."""
    if url := given.get(PREFECT_URL):
        return url
    own = _table(root / "prefect.toml")
    shared = _table(root / "pyproject.toml").get("tool", {}).get("prefect", {})
    for table in (own, shared):
        if url := table.get("api", {}).get("url"):
            return str(url)
    return ""


def is_here(url: str) -> bool:
    """Whether an address is of this machine."""
    return urlsplit(url).hostname in LOOPBACK


def port_of(setting: str, default: int, *, root: Path, given: Mapping[str, str]) -> int:
    """The port that a setting names.

    Raises:
        ConfigError: it names none, or for Prefect's address another machine.
    """
    if setting == PREFECT_URL:
        url = prefect_url(root, given) or f"http://127.0.0.1:{default}/api"
        if not is_here(url):
            raise ConfigError(
                f"{PREFECT_URL} is {url}, which is not on this machine: `psavlm up` starts servers "
                "on 127.0.0.1 only; unset it, or start a worker for that server by hand"
            )
        return urlsplit(url).port or 80
    text = given.get(setting, str(default))
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise ConfigError(f"{setting}={text} is no port: give a number from 1024 to 65535")
    return int(text)


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
