"""Numbers that several parts of the config tree have, with their bounds."""

from typing import Annotated, Any, TypeVar

from pydantic import Field

# An upper end is what a JSON schema can say against infinity: it knows no other word for it.
MOST_RATIO = 1_000_000.0
Ratio = Annotated[float, Field(ge=0, le=MOST_RATIO, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Names = TypeVar("Names", list[str], tuple[str, ...])


def unsaid(value: object) -> Any:
    """A field that is left out of the dump where it has this value, its default.

    Runs from before there was the field keep their fingerprints.
    """
    return Field(exclude_if=value.__eq__)
