"""Who answers: a model here, one behind an endpoint, or answers that were given before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.completion import FILTERED
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
    """An answer, and what the guard has seen if there is one; `fault`: why there is no answer.

    What the filter of an endpoint withholds, or its API says to be a refusal, is told by its fault,
    and is an answer all the same: the system behind the address has refused.
    """

    text: str
    fault: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    flagged: bool | None = None
    risk: float | None = None
    types: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def filtered(self) -> bool:
        """Whether the endpoint itself says that it has refused."""
        return self.fault == FILTERED

    @property
    def unanswered(self) -> bool:
        """Whether there is nothing to be judged."""
        return bool(self.fault) and not self.filtered


Kept = Callable[[int, Told], None]
# Answers questions with at most so many tokens; tells place and answer of each when it is there.
Answering = Callable[[Sequence[Ask], int, Kept], None]


@dataclass(frozen=True)
class Responder:
    """A model by its name for people, what its answers depend on, and how it is opened.

    `ranks`: whether it can tell which of several options it finds likeliest. What is `free` is not
    kept: it costs nothing to ask again.
    """

    name: str
    identity: dict[str, str]
    open: Callable[[], Answering]
    parents: dict[str, Artifact] = field(default_factory=dict)
    ranks: bool = True
    free: bool = False

    def in_batches(self, longest: int) -> Callable[[Sequence[Ask]], list[Told]]:
        """The model as a function from questions to answers in their order, opened now."""
        answering = self.open()

        def answer(asks: Sequence[Ask]) -> list[Told]:
            found: dict[int, Told] = {}
            answering(asks, longest, found.__setitem__)
            return [found[place] for place in range(len(asks))]

        return answer
