"""What a scenario of interruption is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ORDERS = ("rerun", "gc")


def nothing(_: str) -> Any:
    """No start, or no more to look at."""


@dataclass(frozen=True)
class Scenario:
    """Something that may be interrupted anywhere and then ends the same when it is run again.

    It runs in a folder of its own (the working directory), in which the local cache and the
    registry's database lie too; `../inputs` is for files of people. All get the root's address.

    Attributes:
        run: what dies, and is run again.
        start: makes what is there before; two days old when `run` begins.
        state: what else than the root's files must be the same in the end.
        finished: whether nothing is left to do, so that another run would do something else.
        orders: whether garbage is removed before `run` is run again, or after it.
        whole: whether all that is there before is undamaged.
        also: what else is watched (tests/mortal.py).
    """

    run: Callable[[str], Any]
    start: Callable[[str], Any] = nothing
    state: Callable[[str], Any] = nothing
    finished: Callable[[str], Any] = nothing
    orders: tuple[str, ...] = ORDERS
    whole: bool = True
    also: tuple[str, ...] = ()
