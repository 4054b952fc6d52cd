"""A source as people type it: `format=table,uri=my.csv,columns.question=prompt`."""

from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from schemas.config import SourceConfig
from schemas.errors import ConfigError
from tasks.sources.fields import layout
from tasks.sources.registry import reader_of


def parse_source(text: str) -> SourceConfig:
    """`key=value` pairs, separated by commas -> a checked source.

    Raises:
        ConfigError: a pair without `=`, a key twice, a misspelt key, format, field or value.
    """
    values: dict[str, Any] = {"columns": {}}
    for pair in text.split(","):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ConfigError(f"source {text!r}: {pair!r} is not key=value")
        scope, _, field = key.rpartition(".")
        target = values["columns"] if scope == "columns" else values
        name = field if scope == "columns" else key
        _check_key(name, scope, text)
        if target.get(name):
            raise ConfigError(f"source {text!r}: {key!r} is given twice")
        target[name] = value
    try:
        source = SourceConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise ConfigError(f"source {text!r}: {place}: {first['msg']}") from error
    layout(source, reader_of(source).labels)
    return source


def _check_key(name: str, scope: str, text: str) -> None:
    known = [k for k in SourceConfig.model_fields if k != "columns"]
    if scope == "columns" or name in known:
        return
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(
        f"source {text!r}: unknown key {name!r}; {hint}keys: {', '.join(known)}, columns.<field>"
    )
