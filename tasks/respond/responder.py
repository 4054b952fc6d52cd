"""Who answers: a model here, one behind an endpoint, or answers that were given before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from schemas.artifact import Artifact

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Ask:
    """One question: its names and place in the benchmark, the picture and its encoded bytes.

    With `options` (letter to text) no answer is written: the likeliest option's letter is it.
    """

    names: tuple[str, ...]
    number: int
    prompt: str
    picture: "Image | None" = None
    data: bytes | None = None
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """An answer, and what the guard has seen if there is one; `fault`: why there is no answer."""

    text: str
    fault: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    flagged: bool | None = None
    risk: float | None = None
    types: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)


Kept = Callable[[int, Told], None]
# Answers questions with at most so many tokens; tells place and answer of each when it is there.
Answering = Callable[[Sequence[Ask], int, Kept], None]


@dataclass(frozen=True)
class Responder:
    """A model by its name for people, what its answers depend on, and how it is opened.

    `ranks`: whether it can tell which of several options it finds likeliest.
    """

    name: str
    identity: dict[str, str]
    open: Callable[[], Answering]
    parents: dict[str, Artifact] = field(default_factory=dict)
    ranks: bool = True
