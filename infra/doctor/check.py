"""What a check says: fine, worth a look, or broken with what to do."""

from typing import Literal

from schemas.frozen import Frozen


class Check(Frozen):
    """One line of `psavlm doctor`.

    Attributes:
        name: what was looked at.
        state: ok, warn (runs go on) or fail (a run would not).
        said: what was found.
        remedy: what to do; "" when all is fine.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    said: str
    remedy: str = ""


def fine(name: str, said: str) -> Check:
    """Nothing to do."""
    return Check(name=name, state="ok", said=said)


def note(name: str, said: str, remedy: str) -> Check:
    """Runs go on, and somebody may want to know."""
    return Check(name=name, state="warn", said=said, remedy=remedy)


def broken(name: str, said: str, remedy: str) -> Check:
    """A run would fail of this."""
    return Check(name=name, state="fail", said=said, remedy=remedy)
