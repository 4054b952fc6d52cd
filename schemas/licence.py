"""Which licences forbid commercial use: an explicit list as TOML, nothing is guessed."""

import re
from functools import lru_cache

from pydantic import ValidationError

from schemas.errors import ConfigError
from schemas.explain import explain
from schemas.frozen import Frozen
from schemas.shipped import read_toml


class LicenceList(Frozen):
    """Identifiers of licences; case, blanks and hyphens make no difference."""

    version: int
    non_commercial: tuple[str, ...]

    def forbids_commerce(self, licence: str) -> bool:
        """Whether this licence is on the list of non-commercial ones."""
        return _plain(licence) in {_plain(listed) for listed in self.non_commercial}


@lru_cache
def load_licences(name: str = "default") -> LicenceList:
    """The shipped list, or one's own TOML by path."""
    raw = read_toml(name, folder="licences", what="licence list")
    try:
        return LicenceList.model_validate(raw)
    except ValidationError as error:
        told = explain(error.errors(), LicenceList)
        raise ConfigError(f"licence list {name!r}: {told}") from error


def _plain(licence: str) -> str:
    return re.sub(r"[\s_-]+", "-", licence.strip().casefold())
