"""A source as people type it: `format=table,uri=my.csv,columns.question=prompt`."""

from typing import Any

from pydantic import ValidationError

from schemas.config import SourceConfig
from schemas.errors import ConfigError
from schemas.explain import did_you_mean, explain
from tasks.sources.layout import layout
from tasks.sources.registry import READERS, check_use, reader_of

SCOPES = ("columns", "constants")


def parse_source(text: str) -> SourceConfig:
    """`key=value` pairs, separated by commas -> a checked source.

    Raises:
        ConfigError: a pair without `=`, a key twice, a misspelt key, format, field or value, or
            data for evaluation only that would train.
    """
    values: dict[str, Any] = {scope: {} for scope in SCOPES}
    for pair in text.split(","):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ConfigError(
                f"source {text!r}: {pair!r} is not key=value; write it like "
                f"{READERS['table'].example}"
            )
        scope, _, field = key.partition(".")
        target = values[scope] if field and scope in SCOPES else values
        name = field if field and scope in SCOPES else key
        _check_key(name, scope, text)
        if name in target:
            raise ConfigError(f"source {text!r}: {key!r} is given twice")
        target[name] = value
    try:
        source = SourceConfig.model_validate(values)
    except ValidationError as error:
        told = explain(error.errors(), SourceConfig)
        raise ConfigError(
            f"source {text!r}: {told}; write it like {READERS['table'].example}"
        ) from error
    layout(source, reader_of(source).labels)
    check_use(source)
    return source


def _check_key(name: str, scope: str, text: str) -> None:
    known = [k for k in SourceConfig.model_fields if k not in SCOPES]
    if (scope in SCOPES and name != scope) or name in known:
        return
    raise ConfigError(
        f"source {text!r}: unknown key {name!r}; {did_you_mean(name, known)}keys: "
        f"{', '.join(known)}, columns.<field>, constants.<field>"
    )
