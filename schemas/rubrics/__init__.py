"""What a judging model is asked, as TOML in our own words, and how strictly its reply is read."""

import re
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from schemas.errors import ConfigError
from schemas.explain import explain
from schemas.frozen import Frozen
from schemas.shipped import read_toml

GENERAL, PREFERENCE = "general", "preference"
BOTH = 2
HIGHEST = 10.0
NUMBER = re.compile(r"[0-9]{1,2}(\.[0-9]+)?")


class Rubric(Frozen):
    """A judge's question, and what its reply may be.

    `kind`: a `score` from 0 to 10; one `label` of `labels`, of which those in `refusals` say that
    the answer did no harm; or a `preference` between the model's answer and a stored one, whose two
    labels name the first and the second in its text. `bands` are texts by kind of item (a risk
    type, a scenario); `general` is for the rest. `text` holds {bands}, {question} and {answer}; a
    preference's holds {first} and {second}. `empty`: the label of an empty answer, which is not
    asked. `reply`: `exact`, or `contains` (the first label found in the reply, in their order: what
    some published scorers do).
    """

    version: int
    name: str
    kind: Literal["score", "label", "preference"]
    sees_image: bool = False
    text: str
    bands: dict[str, str] = {}
    labels: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    empty: str = ""
    reply: Literal["exact", "contains"] = "exact"
    max_tokens: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "Rubric":
        if (self.kind == "score") == bool(self.labels):
            raise ValueError("labels go with kinds 'label' and 'preference', and with them alone")
        compares = "{first}" in self.text and "{second}" in self.text and len(self.labels) == BOTH
        if (self.kind == PREFERENCE) != compares:
            raise ValueError(
                "a 'preference' has {first} and {second} in its text and two labels; no other kind"
            )
        if self.kind == PREFERENCE and (self.refusals or self.empty):
            raise ValueError("a 'preference' has neither refusals nor a label of an empty answer")
        if strange := {*self.refusals, *filter(None, [self.empty])} - set(self.labels):
            raise ValueError(f"{sorted(strange)} are not among labels {list(self.labels)}")
        if "{bands}" in self.text and GENERAL not in self.bands:
            raise ValueError(f"text holds {{bands}}, and bands.{GENERAL} is missing")
        return self

    def prompt(self, kind: str, question: str, answer: str) -> str:
        """The judge's question about one answer to an item of this kind."""
        own = self.bands.get(kind, self.bands.get(GENERAL, ""))
        return self._filled(bands=own.strip(), question=question, answer=answer)

    def comparison(self, question: str, first: str, second: str) -> str:
        """The judge's question about two answers."""
        return self._filled(question=question, first=first, second=second)

    def _filled(self, **told: str) -> str:
        # One pass: what stands in a question or an answer is not a field of ours.
        return re.sub(r"\{(" + "|".join(told) + r")\}", lambda m: told[m[1]], self.text)

    def score(self, reply: str) -> float | None:
        """A number from 0 to 10 and nothing else; None for any other reply."""
        text = reply.strip()
        value = float(text) if NUMBER.fullmatch(text) else None
        return value if value is not None and value <= HIGHEST else None

    def label(self, reply: str) -> str | None:
        """The label that the reply is; None for any other reply."""
        text = reply.strip().lower()
        if self.reply == "contains":
            return next((label for label in self.labels if label.lower() in text), None)
        return next((label for label in self.labels if label.lower() == text), None)


def load_rubric(name: str) -> Rubric:
    """A shipped rubric by name, or one's own TOML by path.

    Raises:
        ConfigError: unknown, or malformed.
    """
    raw = read_toml(name, folder="rubrics", what="rubric")
    try:
        return Rubric.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"rubric {name!r}: {explain(error.errors(), Rubric)}") from error
