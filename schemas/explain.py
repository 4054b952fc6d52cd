"""What pydantic found wrong, in one line for people: the place, the value, the word meant."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails


def explain(
    errors: Iterable[ErrorDetails], model: type[BaseModel], *, also: Collection[str] = ()
) -> str:
    """All errors in one line.

    Args:
        errors: what `ValidationError.errors()` gives.
        model: the class that was validated: it knows the keys of every place.
        also: keys that the outermost place knows beside the model's fields.
    """
    return "; ".join(_sentence(error, model, also) for error in errors)


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`did you mean 'x'? ` for a word that is nearly a known one, else nothing."""
    close = get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _sentence(error: ErrorDetails, model: type[BaseModel], also: Collection[str]) -> str:
    loc = error["loc"]
    place = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        known = [*_keys(model, loc[:-1]), *(also if len(loc) == 1 else ())]
        hint = did_you_mean(str(loc[-1]), known)
        return f"unknown key {place!r}; {hint}keys here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{place!r} is missing"
    message = error["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
    return f"{place} = {error['input']!r:.80}: {message}" if place else message


def _keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the table at a place; numbers and names of one's own lead through lists."""
    for part in loc:
        if part in model.model_fields:
            model = _model_in(model.model_fields[str(part)].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) is None:
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return annotation if is_model else None
    found = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in found if model), None)
